"""The maintainers' checklist for a branch of peft."""
