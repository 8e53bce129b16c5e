"""Measure another environment, show what changed, and find the release and the package behind it.

`measuring` measures cases by a pool; `upgrade` compares a candidate with the current environment,
`bisect` searches the `releases` of a package, `responsible` tries one package at a time, `timing`
times two environments in turns; the reports show the result. Only `worker`, a worker's own side,
imports torch.
"""
