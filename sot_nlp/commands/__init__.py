"""The commands of `sot-nlp`, one a file: each has `run(argv, prog)`, which returns the exit code."""
