"""Task specifications, labels and metrics. The task files are in the top-level `tasks/`."""
