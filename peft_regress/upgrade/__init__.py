"""What taking a new release of a library moves, and what to tell its maintainers."""
