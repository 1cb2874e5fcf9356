"""What words add to a decision, as arrays (`attribution`) and as pictures."""
