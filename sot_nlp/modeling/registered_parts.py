"""The user's own parts of a head: in a saved model this file imports and registers them; here there are none.

The configuration's file imports it, so that they are known before any settings are read.
"""

FILES: tuple[str, ...] = ()
