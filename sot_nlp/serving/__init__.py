"""A page to try a trained model in a browser."""
