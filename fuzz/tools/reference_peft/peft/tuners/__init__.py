"""Layers with adapters."""
