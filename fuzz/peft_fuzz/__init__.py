"""Search for defects of adapters that nobody wrote a case for."""
