"""The running environment, as far as an overlay lies over it."""

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

__all__ = ["hiding_folder", "identity", "installed_names", "site_folders"]

# Some packages install these by mistake, and many a checkout has them; nobody imports them.
_BY_MISTAKE: Final = {"benchmarks", "docs", "examples", "scripts", "test", "tests", "tools"}


def site_folders() -> list[str]:
    """Return where the running interpreter finds its packages, in its order."""
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
    """Return what tells this environment from others."""
    return [sys.version, sys.prefix, *site_folders()]


def installed_names() -> list[str]:
    """Return name and version of every package that can be seen from here, cheaply."""
    return sorted(
        entry.name
        for folder in site_folders()
        if Path(folder).is_dir()
        for entry in os.scandir(folder)
        if entry.name.endswith((".dist-info", ".egg-info"))
    )


def hiding_folder(modules: set[str], packages: set[str]) -> tuple[str, str] | None:
    """Return the folder of PYTHONPATH and what it has of these modules and packages, if any.

    It comes before every environment's own packages.
    """
    for folder in filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep)):
        for module in sorted(modules - _BY_MISTAKE):
            spec = PathFinder.find_spec(module, [folder])
            # A folder that is no package has no loader, and gives way.
            if spec is not None and spec.loader is not None:
                return folder, module
        found = {canonicalize_name(one.name) for one in distributions(path=[folder])}
        if found & packages:
            return folder, min(found & packages)
    return None
