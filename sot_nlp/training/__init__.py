"""The loop, its batches, its checkpoints: `loop.train` is the way in, `evaluation.predict` beside it."""
