"""Measure in another interpreter: overlays, workers, upgrades, timing, reproductions."""
