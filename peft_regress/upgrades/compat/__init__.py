"""Load a saved adapter in every release of a package, and compare what it computes. No torch.

`compat` opens an environment for each release, in which `releases` asks a worker, `base_model` and
`loading` are the part with torch, `verdicts` judges what was loaded, `certificate` keeps the result
beside the adapter, `compat_report` shows it.
"""
