"""Check that a tag is a release: what it must agree with, before anything is published.

    python tools/ci/release_check.py v0.3.0
    python tools/ci/release_check.py v0.3.0 --dist dist

The version of pyproject.toml, its section in CHANGELOG.md and CITATION.cff must be those of the
tag. README.md, CITATION.cff, the pages of docs/ and the package, whose messages name the
repository, may no longer say OWNER in place of its owner.
With `--dist` the folder must hold the wheel and the sdist of this version and nothing else. It
needs only the standard library.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import Final

_TAG: Final = re.compile(r"v(\d+\.\d+\.\d+(?:(?:a|b|rc)\d+)?)")
_SECTION: Final = r"^## \[{}\] - (\d{{4}}-\d{{2}}-\d{{2}})$"
_CITED: Final = re.compile(r"^(version|date-released): [\"']?([^\"'\n]+)", re.MULTILINE)
_PUBLISHED: Final = ("README.md", "CITATION.cff")
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
        found = problems(chosen.tag, chosen.project, chosen.dist)
    except ReleaseError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        print(f"{chosen.tag} is a release")
    return 1 if found else 0


def problems(tag: str, project: Path, dist: Path | None = None) -> list[str]:
    """Return what keeps a tag from being a release.

    Raises `ReleaseError` if a file cannot be read.
    """
    form = _TAG.fullmatch(tag)
    if form is None:
        return [f"tag {tag!r:.80}: is not of the form v1.2.3 or v1.2.3rc1; name it by the version"]
    version = form[1]
    return [
        *_in_pyproject(project / "pyproject.toml", version),
        *_in_changelog_and_citation(project, version),
        *_owners(project),
        *([] if dist is None else _built(dist, version)),
    ]


def _in_pyproject(path: Path, version: str) -> list[str]:
    try:
        table = tomllib.loads(_read(path))["project"]
        stated, urls = table["version"], dict(table.get("urls", {}))
    except (tomllib.TOMLDecodeError, KeyError, TypeError, ValueError) as error:
        raise ReleaseError(f"{path}: has no version of a project ({error!r})") from error
    found = []
    if stated != version:
        found.append(
            f"{path}: the version is {stated}, the tag's is {version}; tag the right commit"
        )
    if not urls:
        found.append(f"{path}: has no [project.urls]; add them")
    found += [
        f"{path}: the URL {name!r} says OWNER ({url}); put the repository's owner there"
        for name, url in urls.items()
        if _OWNER.search(str(url))
    ]
    return found


def _in_changelog_and_citation(project: Path, version: str) -> list[str]:
    changelog, citation = project / "CHANGELOG.md", project / "CITATION.cff"
    text = _read(changelog)
    section = re.search(_SECTION.format(re.escape(version)), text, re.MULTILINE)
    if section is None:
        return [f"{changelog}: has no section `## [{version}] - YYYY-MM-DD`; write it"]
    found = []
    if not re.split(r"^## ", text[section.end() :], maxsplit=1, flags=re.MULTILINE)[0].strip():
        found.append(f"{changelog}: the section of {version} is empty; say what changed")
    stated = dict(_CITED.findall(_read(citation)))
    wanted = {"version": version, "date-released": section[1]}
    found += [
        f"{citation}: {name} is {stated.get(name)}, but {text} by pyproject.toml and CHANGELOG.md"
        for name, text in wanted.items()
        if stated.get(name) != text
    ]
    return found


def _owners(project: Path) -> list[str]:
    files = [project / name for name in _PUBLISHED]
    for folder, pattern in _FOLDERS.items():
        files += sorted((project / folder).glob(pattern))
    return [
        f"{file}:{number}: says OWNER; put the repository's owner there"
        for file in files
        for number, line in enumerate(_read(file).splitlines(), start=1)
        if _OWNER.search(line)
    ]


def _built(dist: Path, version: str) -> list[str]:
    wanted = {f"peft_regress-{version}-py3-none-any.whl", f"peft_regress-{version}.tar.gz"}
    try:
        present = {path.name for path in dist.iterdir()}
    except OSError as error:
        raise ReleaseError(
            f"{dist}: cannot be read ({error.strerror}); run `python -m build` first"
        ) from error
    missing, other = sorted(wanted - present), sorted(present - wanted)
    return [
        *(f"{dist}: has no {name}; run `python -m build`" for name in missing),
        *(f"{dist}: has {name!r:.120}, which is not of this release; remove it" for name in other),
    ]


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReleaseError(f"{path}: cannot be read ({error})") from error


if __name__ == "__main__":
    sys.exit(main())
