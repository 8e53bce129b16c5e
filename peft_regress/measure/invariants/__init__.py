"""Facts that must hold in every version of a library; docs/metrics.md says what each of them is.

Each is true, false, or None if it does not apply. They are exact, so one seed is enough.
"""
