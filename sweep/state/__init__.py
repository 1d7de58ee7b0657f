"""What is known about runs: their state, promised jobs, failures by class, and their repair."""
