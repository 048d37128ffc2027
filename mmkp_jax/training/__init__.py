"""Training: setup, step, objectives, the threshold, optimizer, loop, checkpoints, metrics, watchdog."""
