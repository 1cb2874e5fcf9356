"""Probes: many heads trained in parallel on the features of a frozen backbone."""
