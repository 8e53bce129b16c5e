"""Print the versions of the newest baseline's environment, as constraints for pip.

    python tools/ci/constraints.py baselines > constraints.txt
    python -m pip install --constraint constraints.txt .

With `--project FOLDER` the storage is that of `[tool.peft_regress]` in FOLDER/pyproject.toml, if
there is such a table; before its first baseline nothing is constrained.

With these constraints the gate runs in the baseline's environment, so that only the candidate
differs. It needs only the standard library, because it runs before anything is installed.
"""

import argparse
import json
import re
import sys
import tomllib
from pathlib import Path
from typing import Any, Final

_PLAIN: Final = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+!-]*")
"""Names and versions as `peft_regress.cases` reads them."""


def main(arguments: list[str] | None = None) -> int:
    """Print the constraints; return 2 if there is no baseline."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("baselines", type=Path, nargs="?", default=Path("baselines"))
    parser.add_argument("--project", type=Path, help="a checkout that may have cases of its own")
    parser.add_argument("--storage", type=Path, help="in place of theirs")
    chosen = parser.parse_args(arguments)
    storage, is_own = chosen.baselines, False
    file = None if chosen.project is None else chosen.project / "pyproject.toml"
    if file is not None and file.is_file():
        table = tomllib.loads(file.read_text(encoding="utf-8")).get("tool", {}).get("peft_regress")
        if table is not None:
            stated = chosen.project / table.get("baselines", "baselines")
            storage, is_own = chosen.storage or stated, True
    environment = newest_environment(storage)
    if environment is None:
        print(f"# {storage.as_posix()} has no baseline yet", file=None if is_own else sys.stderr)
        return 0 if is_own else 2
    for name, version in sorted(environment.items()):
        # pip cannot take these two from an index. In its file a line break would begin an option.
        if name not in {"peft-regress", "python"}:
            if not (_PLAIN.fullmatch(name) and _PLAIN.fullmatch(version)):
                sys.exit(f"{storage}: {name!r} {version!r} is no package with its version")
            print(f"{name}=={version}")
    return 0


def newest_environment(storage: Path) -> dict[str, str] | None:
    """Return the packages of the newest entry with the role baseline, by number."""
    for path in sorted(storage.glob("*/[0-9]*_*.json"), key=lambda path: path.name, reverse=True):
        run: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["peft_regress"]
        if run["accepted"]["role"] == "baseline":
            environment: dict[str, str] = run["environment"]
            return environment
    return None


if __name__ == "__main__":
    sys.exit(main())
