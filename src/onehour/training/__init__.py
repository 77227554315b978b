"""The loop and what it needs: optimizer, evaluation, checkpoints, devices, several workers, the run's folder."""
