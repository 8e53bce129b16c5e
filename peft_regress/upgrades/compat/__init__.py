"""Load a saved adapter in a range of releases, and judge each by the one that saved it."""
