"""sot-nlp."""
