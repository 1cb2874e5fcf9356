"""What leaves the machine: the model card, uploads to the Hub, GLUE submissions."""
