"""Measure in another environment, tell what moved and which release and package moved it.

`pip_calls` and `overlay` make the environment; `worker` measures in it, asked through `process` by
`crew`; `findings` groups what moved by its cause. No torch here but in the worker.
"""
