"""`python -m sweep.cli`: the same as `sweep`."""

from sweep.cli import main

if __name__ == "__main__":  # processes of a job import it, too
    main()
