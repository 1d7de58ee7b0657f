"""Evaluations of a trained model, one file per kind, with the queue that keeps batches full."""
