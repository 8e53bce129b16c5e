"""Print the versions of the newest baseline's environment, as constraints for pip.

    python tools/ci/constraints.py baselines > constraints.txt
    python -m pip install --constraint constraints.txt .

With `--project FOLDER` the storage is that of `[tool.peft_regress]` in FOLDER/pyproject.toml, if
there is such a table; before its first baseline nothing is constrained.

With these constraints the gate runs in the baseline's environment, so that only the candidate
differs. It needs only the standard library, because it runs before anything is installed.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

_ENTRIES: Final = "*/[0-9]*_*.json"

_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*")
"""Names and versions as `peft_regress.cases` reads them."""

_NOT_INSTALLED: Final = frozenset({"peft-regress", "python"})
"""Names in an environment that pip cannot take from an index."""


class ConstraintsError(Exception):
    """There is no baseline, or it cannot be read."""


def main() -> int:
    """Print the constraints; return 2 if there is no readable baseline."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("baselines", type=Path, nargs="?", default=Path("baselines"))
    parser.add_argument("--project", type=Path, help="a checkout that may have cases of its own")
    arguments = parser.parse_args()
    try:
        own = None if arguments.project is None else own_storage(arguments.project)
        if own is not None and not any(own.glob(_ENTRIES)):
            print(f"# {own.as_posix()} has no baseline yet")
            return 0
        entry, environment = newest_baseline(own or arguments.baselines)
    except ConstraintsError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"# of {entry.as_posix()}")
    for name, version in sorted(environment.items()):
        if name not in _NOT_INSTALLED:
            print(f"{name}=={version}")
    return 0


def own_storage(project: Path) -> Path | None:
    """Return the storage of a project with `[tool.peft_regress]`; None without such a table."""
    file = project / "pyproject.toml"
    if not file.is_file():
        return None
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("peft_regress")
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConstraintsError(f"{file}: is not TOML ({error})") from None
    return None if table is None else project / table.get("baselines", "baselines")


def newest_baseline(root: Path) -> tuple[Path, dict[str, str]]:
    """Return the newest entry with the role baseline, by number, and its environment.

    Raises `ConstraintsError` if there is none, or if an entry cannot be read.
    """
    found: list[tuple[int, str, Path, dict[str, str]]] = []
    for path in sorted(root.glob(_ENTRIES)):
        try:
            run = json.loads(path.read_text(encoding="utf-8"))["peft_regress"]
            if run["accepted"]["role"] == "baseline":
                number = int(path.name.partition("_")[0])
                found.append((number, run["accepted"]["date"], path, run["environment"]))
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ConstraintsError(
                f"{path}: is not an accepted entry ({error!r}). `git checkout` restores it."
            ) from error
    if not found:
        raise ConstraintsError(
            f"{root}: no accepted baseline. Name the folder that `peft-regress accept` writes to."
        )
    *_, path, environment = max(found, key=lambda entry: entry[:3])
    for pair in environment.items():
        # In a file for pip a line break would begin an option, such as another index.
        if not all(_PLAIN.fullmatch(str(text)) for text in pair):
            raise ConstraintsError(
                f"{path}: {pair!r:.200} is no package with its version. `git checkout` restores it."
            )
    return path, environment


if __name__ == "__main__":
    sys.exit(main())
