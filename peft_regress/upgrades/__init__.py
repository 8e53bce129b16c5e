"""Measure another environment, show what changed, and find the release and the package behind it.

`measuring` measures cases by several `worker`s at once; `upgrade` compares a candidate with the
current environment, `bisect` searches the `releases` of a package, `responsible` tries one package
at a time; `upgrade_report`, `bisect_report` and `advice` show the result. Only `worker` imports
torch.
"""
