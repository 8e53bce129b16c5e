"""Programs that work in another interpreter and are asked by lines of JSON. No torch here.

`process` is one of them as its conductor sees it, `serving` its own side, `messages` what both say.
"""
