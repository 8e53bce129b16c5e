"""Work in another interpreter: what every command that measures elsewhere uses. No torch.

`process` starts a worker and asks it, `serve` is the worker's own side. `pool` gives futures for
what is asked in an environment; `cluster` does so by nodes of Dask, `node` is the part there.
"""
