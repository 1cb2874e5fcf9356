"""Publish results: the model card, uploads to the Hub, GLUE submissions."""
