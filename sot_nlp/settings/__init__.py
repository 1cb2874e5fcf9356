"""The settings of a run: one dataclass, the command line and YAML files that fill it, and their checks."""
