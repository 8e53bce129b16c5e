"""Measure in another environment, tell what moved, and which release and package moved it.

`crew` measures cases by `worker`s, which it asks through `process`; `conduct` takes a candidate
through a matrix, `bisect` searches the `releases`, `alone` tries one package at a time; `report`,
`bisect_report` and `advice` say what came of it. No torch here but in the worker.
"""
