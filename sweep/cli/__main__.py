"""`python -m sweep.cli`: the same as `sweep`."""

from sweep.cli import main

main()
