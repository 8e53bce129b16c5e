"""Many cases -> one run: by pytest, and by workers of this machine or of Dask. No torch.

`measuring` asks the workers of a pool, `measurer` is their own side; `keeper` keeps records and
takes those of an earlier run.
"""
