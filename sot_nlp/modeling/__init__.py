"""The head, the models with it, and their loading: flat files that also travel to the Hub.

A saved model takes these files along, so they import torch, transformers and each other (by name, from the
same folder), never the rest of this package. Import what you need from the file that defines it; the
public names are at the top: `from sot_nlp import AutoSoTForSequenceClassification`.
"""
