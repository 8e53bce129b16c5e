"""Environments made in seconds, of megabytes: only what differs from the running one. No torch."""
