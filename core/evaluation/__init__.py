"""Evaluations of a trained model, one file per kind, and the queue that keeps batches full."""
