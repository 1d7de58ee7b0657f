"""`python -m sweep.cli`: the same as `sweep`."""

from sweep.cli import main

if __name__ == "__main__":  # spawned processes import this module, too
    main()
