"""The dry run: every kind of run in miniature, for real, on this machine."""
