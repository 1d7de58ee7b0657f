"""Where runs run: profiles, the limits and answers of a cluster, the job we are in, a test bed."""
