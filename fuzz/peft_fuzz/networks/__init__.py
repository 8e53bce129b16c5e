"""Small networks, as JSON values and as modules."""
