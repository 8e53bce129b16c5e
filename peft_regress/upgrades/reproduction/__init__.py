"""Stand-alone scripts that show a change to a library's maintainers. No torch at import.

`script` writes one from `sections` and from the pieces of `methods`; `reproduce` runs it with the
packages of both sides.
"""
