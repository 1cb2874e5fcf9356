"""Explain decisions: what words contribute to them, as arrays (`attribution`) and as pictures."""
