"""The Python interface: `train` a classifier and `load` one, with examples from memory or from files."""
