"""Describe the running environment, which every overlay lies over."""

from __future__ import annotations

import os
import site
import sys
import sysconfig
from importlib.machinery import PathFinder
from importlib.metadata import distributions
from pathlib import Path
from typing import Final

from packaging.utils import canonicalize_name

# Some packages install these by mistake, and many checkouts have them; nothing imports them.
_NEVER_IMPORTED: Final = {"benchmarks", "docs", "examples", "scripts", "test", "tests", "tools"}


def site_folders() -> list[str]:
    """Return the folders in which the running interpreter finds packages, in order."""
    own = [*site.getsitepackages(), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    if site.ENABLE_USER_SITE:
        own.append(site.getusersitepackages())
    known = {os.path.realpath(folder) for folder in own}
    named = {"site-packages", "dist-packages"}
    found = [
        folder
        for folder in sys.path
        if os.path.realpath(folder) in known or Path(folder).name in named
    ]
    return list(dict.fromkeys(os.path.realpath(folder) for folder in found))


def identity() -> list[str]:
    """Return what distinguishes this environment from others."""
    return [sys.version, sys.prefix, *site_folders()]


def installed_names() -> list[str]:
    """Return name and version of every package that is installed here, from file names only."""
    return sorted(
        entry.name
        for folder in site_folders()
        if Path(folder).is_dir()
        for entry in os.scandir(folder)
        if entry.name.endswith((".dist-info", ".egg-info"))
    )


def hiding_folder(modules: set[str], packages: set[str]) -> tuple[str, str] | None:
    """Return the first folder of PYTHONPATH with one of these modules or packages, and its name.

    Python looks there before it looks in any environment.
    """
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        for module in sorted(modules - _NEVER_IMPORTED):
            spec = PathFinder.find_spec(module, [folder])
            # A folder without `__init__.py` has no loader: a package elsewhere is preferred.
            if spec is not None and spec.loader is not None:
                return folder, module
        found = {canonicalize_name(one.name) for one in distributions(path=[folder])}
        if found & packages:
            return folder, min(found & packages)
    return None
