"""Measure another environment, show what changed, and find the release and the package behind it.

Only `worker`, a worker's own side, imports torch.
"""
