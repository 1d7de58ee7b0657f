"""What a compute node runs: a job, the attempts it makes, and how they are stopped."""
