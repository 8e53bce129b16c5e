"""A training script as it is, watched from outside for its first optimizer steps."""
