"""Scripts that show what moved without this project, for a library's maintainers. No torch here.

`script` writes one, from `sections` and what `methods` knows; `reproduce` runs it on both sides.
"""
