"""Modules of one release of a package with some functions of another one."""
