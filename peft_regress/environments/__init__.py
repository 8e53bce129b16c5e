"""Measure in another interpreter: overlays, workers, upgrades, bisections, paired times."""
