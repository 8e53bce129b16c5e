"""Many cases -> one run: for pytest, and by workers of this machine or of Dask. No torch.

`measurer` measures in a process, of pytest or of a worker; `measuring` asks the workers of a pool.
`keeper` keeps records and takes those of an earlier run.
"""
