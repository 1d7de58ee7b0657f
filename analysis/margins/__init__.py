"""Margin consistency: do logits rank images by their distance to the decision boundary?

Distances and margins of an evaluation -> Kendall's tau, detection of brittle samples, and robust
accuracy estimated from few distances (arXiv 2406.18451).
"""
