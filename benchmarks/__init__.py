"""Measurements behind the README's speed figures: `python -m benchmarks NAME` prints one as JSON."""
