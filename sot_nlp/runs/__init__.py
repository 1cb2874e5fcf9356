"""A fine-tuning run, from settings to record."""
