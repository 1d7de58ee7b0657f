"""What runs will cost: forward passes, FLOPs, GPU-hours."""
