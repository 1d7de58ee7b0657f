"""The machine under a run: device, threads, precision, and the processes that share one run."""
