"""Check that a tag is a release: what it must agree with, before anything is published.

    python tools/ci/release_check.py v0.3.0

The version of pyproject.toml, its section in CHANGELOG.md and CITATION.cff must be those of the
tag. No published text, nor the package, whose messages name the repository, may say OWNER in place
of its owner.
"""

import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path


def main(arguments: list[str]) -> int:
    """Print every problem of a tag, by default of this checkout; return 1 if there is one."""
    tag, project = arguments[0], Path(*arguments[1:])
    found = list(problems(tag, project))
    for problem in found:
        print(f"error: {problem}", file=sys.stderr)
    if not found:
        print(f"{tag} is a release")
    return int(bool(found))


def problems(tag: str, project: Path) -> Iterator[str]:
    """Yield what keeps a tag from being a release."""
    version = tag.removeprefix("v")
    stated = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    if tag != f"v{stated['version']}":
        yield f"pyproject.toml: the version is {stated['version']}, but the tag {tag!r:.80}"
        return
    if not stated.get("urls"):
        yield "pyproject.toml: has no [project.urls]; add them"
    head = rf"^## \[{re.escape(version)}\] - (\d{{4}}-\d{{2}}-\d{{2}})\n+(?!## )\S"
    section = re.search(head, (project / "CHANGELOG.md").read_text(), re.MULTILINE)
    if section is None:
        yield f"CHANGELOG.md: has no text below `## [{version}] - YYYY-MM-DD`; write it"
        return
    cited = (project / "CITATION.cff").read_text()
    for name, wanted in {"version": version, "date-released": section[1]}.items():
        if not re.search(rf"^{name}: [\"']?{re.escape(wanted)}[\"']?$", cited, re.MULTILINE):
            yield f"CITATION.cff: {name} is not {wanted}, as the changelog has it"
    files = [project / name for name in ("README.md", "CITATION.cff", "pyproject.toml")]
    files += [*(project / "docs").rglob("*.md"), *(project / "peft_regress").rglob("*.py")]
    for file in files:
        if re.search(r"\bOWNER\b", file.read_text()):
            yield f"{file}: says OWNER; put the repository's owner there"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
