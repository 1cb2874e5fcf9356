"""The demo: two heads trained on an invented grammar, without data or downloads."""
