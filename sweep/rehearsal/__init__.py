"""The dry run: every kind of run in miniature, executed on this machine."""
