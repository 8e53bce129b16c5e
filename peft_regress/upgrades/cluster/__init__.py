"""Measure on the nodes of a Dask cluster.

`connection` finds a scheduler and its workers, `measuring` hands out the work and takes what comes
back, `slots` says who may start next, `attempts` follows what runs where, `node` is what a Dask
worker does, `facts` says what a node must have, `own_code` packs the code of a project's own cases,
and `messages` has what both sides exchange: strings alone.
"""
