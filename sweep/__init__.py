"""Many runs: grid, plan, submission, job, status. The only package that imports submitit."""
