"""Use a trained model: load it, predict, evaluate, export."""
