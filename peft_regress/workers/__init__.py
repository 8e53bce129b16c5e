"""Programs that work in another interpreter and answer requests, one JSON object a line. No torch.

`process` starts a worker and asks it, `serve` is the worker's own side, `messages` has what they
exchange.
"""
