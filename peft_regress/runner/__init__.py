"""Many cases -> one run: for pytest, and by workers of this machine or of Dask. No torch."""
