"""What a project states: its cases, budgets, bounds, devices and settings. No torch at import."""
