"""A task's files, or the Hub's, to tokens: `task_data.load_data` is the way in."""
