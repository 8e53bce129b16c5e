"""Facts that must hold in every version of a library: costs alone miss changed functions.

Each is true, false, or None if it does not apply. They are exact, so one seed is enough.
`watch.InvariantWatch` checks them; docs/metrics.md says what each of them is.
"""
