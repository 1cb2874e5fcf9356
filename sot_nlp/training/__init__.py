"""The training loop, its batches and its checkpoints. Entry points: `loop.train` and `evaluation.predict`."""
