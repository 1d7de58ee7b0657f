"""The sister benchmark "A Guide to Robust Generalization" (arXiv 2508.14079): from five accuracies
of every configuration to rankings, tests, an audit of its claims, and which backbone to try.
"""
