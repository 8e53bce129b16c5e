"""Measure another environment, show what changed, and find the release or package behind it."""
