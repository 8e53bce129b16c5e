"""Accepted runs over time: entries, adapters, which one judges a case, histories."""
