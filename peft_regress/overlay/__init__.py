"""Environments made in seconds, of megabytes: they hold only what differs from the running one.

`pip` plans and installs, `folder` builds and reads an overlay; `overlay` reads what a user typed,
and is what other packages use. Nothing here imports torch.
"""
