"""What a model with adapters must be and compute, in plain torch."""
