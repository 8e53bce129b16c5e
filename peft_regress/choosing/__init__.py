"""Choose a method and its rank for a device: what fits, ranked by evidence and by cost."""
