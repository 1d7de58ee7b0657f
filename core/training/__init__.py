"""Training: the loop over epochs, one optimiser step, losses, schedules, augmentation."""
