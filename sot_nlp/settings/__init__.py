"""A run's settings: one dataclass, the command line and YAML files that fill it, and their checks."""
