"""Environments made in seconds, of megabytes: they hold only what differs from the running one.

`requirements` reads what a user typed, `pip` plans and installs, `folder` builds and reads an
overlay; `overlay` is what other packages use. Nothing here imports torch.
"""
