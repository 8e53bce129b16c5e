"""Load a saved adapter in every release of a package, and compare what it computes. No torch.

`compat` opens an environment for each release and asks its `worker`, `messages` has what they
exchange, `loading` is the part with torch, `verdicts` judges what was loaded, `certificate` keeps
the result beside the adapter, `compat_report` shows it.
"""
