"""Limits on how much the page takes at once."""

MAX_CHARACTERS = 5000
# A character is at most 12 bytes in JSON (a surrogate pair's escapes); two texts and what is around them.
MAX_BODY = 2 * 12 * MAX_CHARACTERS + 4096
# Questions that may wait for the model; one is answered at a time.
MAX_WAITING = 8
MAX_EXAMPLES = 20
# Labels whose probabilities are drawn; the likeliest ones.
MAX_BARS = 20
