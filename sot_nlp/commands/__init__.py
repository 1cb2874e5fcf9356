"""The commands of `sot-nlp`, one per file: each has `run(argv, prog)`, which returns the exit code."""
