"""What is known about runs: their state, jobs on the way, failures by class, and their repair."""
