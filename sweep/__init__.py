"""Many runs: grid, plan, submission, jobs, status. The only package that imports submitit."""
