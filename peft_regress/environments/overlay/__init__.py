"""Environments in seconds and megabytes: what differs from the running one, over it. No torch here.

`requirements` reads what was asked for, `pip_calls` asks pip, `running` describes what lies below,
`folder` builds one and reads it, `cache` keeps them, and `overlay` is what others use.
"""
