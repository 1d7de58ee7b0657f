"""What a grid will cost: forward passes, FLOPs, GPU-hours."""
