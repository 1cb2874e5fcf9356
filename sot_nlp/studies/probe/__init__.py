"""Probes: many heads trained side by side on the features of a frozen backbone."""
