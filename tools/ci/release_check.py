"""Check that a tag is a release: what it must agree with, before anything is published.

    python tools/ci/release_check.py v0.3.0
    python tools/ci/release_check.py v0.3.0 --dist dist

The version of pyproject.toml, its section in CHANGELOG.md and CITATION.cff must be those of the
tag. No published text, nor the package, whose messages name the repository, may say OWNER in place
of its owner. With `--dist` the folder must hold the wheel and the sdist of this version and nothing
else. It needs only the standard library.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_TAG: Final = re.compile(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")
_SECTION: Final = r"^## \[{}\] - (\d{{4}}-\d{{2}}-\d{{2}})$"
_CITED: Final = re.compile(r"^(version|date-released): [\"']?([^\"'\n]+)", re.MULTILINE)
_PUBLISHED: Final = ("README.md", "CITATION.cff", "pyproject.toml")
_FOLDERS: Final = {"docs": "**/*.md", "peft_regress": "**/*.py"}
_OWNER: Final = re.compile(r"\bOWNER\b")


class ReleaseError(Exception):
    """A file cannot be read, so that nothing can be checked."""


def main(arguments: list[str] | None = None) -> int:
    """Print every problem; return 0 if there is none, 1 if there are, 2 if a file is unreadable."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("tag", help="the tag, such as v0.3.0")
    parser.add_argument("--project", type=Path, default=Path(), help="the checkout")
    parser.add_argument("--dist", type=Path, help="a folder with what was built")
    chosen = parser.parse_args(arguments)
    try:
        found = list(problems(chosen.tag, chosen.project, chosen.dist))
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        print(f"{chosen.tag} is a release")
    return 1 if found else 0


def problems(tag: str, project: Path, dist: Path | None = None) -> Iterator[str]:
    """Yield what keeps a tag from being a release.

    Raises `ReleaseError` if a file cannot be read.
    """
    form = _TAG.fullmatch(tag)
    if form is None:
        yield f"tag {tag!r:.80}: is not of the form v1.2.3 or v1.2.3rc1; name it by the version"
        return
    yield from _disagreeing(project, form[1])
    files = [project / name for name in _PUBLISHED]
    for folder, pattern in _FOLDERS.items():
        files += sorted((project / folder).glob(pattern))
    for file in files:
        for number, line in enumerate(_read(file).splitlines(), start=1):
            if _OWNER.search(line):
                yield f"{file}:{number}: says OWNER; put the repository's owner there"
    if dist is not None:
        wanted = {f"peft_regress-{form[1]}-py3-none-any.whl", f"peft_regress-{form[1]}.tar.gz"}
        present = {path.name for path in dist.glob("*")}
        for name in sorted(wanted ^ present):
            problem = "is missing; run `python -m build`" if name in wanted else "is not of it"
            yield f"{dist}: {name!r:.120} {problem}"


def _disagreeing(project: Path, version: str) -> Iterator[str]:
    """Yield where pyproject.toml, the changelog and the citation state something else."""
    path = project / "pyproject.toml"
    try:
        table = tomllib.loads(_read(path))["project"]
        stated = table["version"]
    except (tomllib.TOMLDecodeError, KeyError, TypeError) as error:
        raise ReleaseError(f"{path}: has no version of a project ({error!r})") from error
    if stated != version:
        yield f"{path}: the version is {stated}, the tag's is {version}; tag the right commit"
    if not table.get("urls"):
        yield f"{path}: has no [project.urls]; add them"
    changelog, citation = project / "CHANGELOG.md", project / "CITATION.cff"
    text = _read(changelog)
    section = re.search(_SECTION.format(re.escape(version)), text, re.MULTILINE)
    if section is None:
        yield f"{changelog}: has no section `## [{version}] - YYYY-MM-DD`; write it"
        return
    if not text[section.end() :].partition("\n## ")[0].strip():
        yield f"{changelog}: the section of {version} is empty; say what changed"
    cited = dict(_CITED.findall(_read(citation)))
    for name, wanted in {"version": version, "date-released": section[1]}.items():
        if cited.get(name) != wanted:
            yield f"{citation}: {name} is {cited.get(name)}, but {wanted} by the changelog"


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path}: cannot be read ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
