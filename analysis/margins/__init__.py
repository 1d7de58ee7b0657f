"""Margin consistency: do logits rank images by their distance to the decision boundary?

From an evaluation's distances and margins to Kendall's tau, detection of brittle images, and robust
accuracy estimated from few distances (arXiv 2406.18451).
"""
