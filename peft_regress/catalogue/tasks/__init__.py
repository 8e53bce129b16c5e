"""Tasks that a source model is adapted to. No torch at import."""
