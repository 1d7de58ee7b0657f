"""The sister benchmark "A Guide to Robust Generalization" (arXiv 2508.14079): five accuracies of
every configuration -> rankings, tests, what does not follow from them, and which backbone to try.
"""
