"""Checkpoints of a training run: writing, verifying, rotating and restoring them."""
