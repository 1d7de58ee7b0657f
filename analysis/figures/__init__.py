"""Data frames -> figures of the paper, in one style, as vector PDF and PNG."""
