"""What is done with a trained model: load it, predict, evaluate, export."""
