"""Search for examples that fail, keep what is found, and replay it."""
