"""The tests mirror the package; being a package themselves, they can share `tests.support.tiny`."""
