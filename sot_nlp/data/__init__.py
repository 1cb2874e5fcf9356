"""Read a task's files, or the Hub's, as tokens. Entry point: `task_data.load_data`."""
