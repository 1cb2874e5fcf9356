"""What a task is: its specification, labels and metrics. The task files lie in the top-level `tasks/`."""
