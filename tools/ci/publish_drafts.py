"""Drafts: what one job prepares from the files of a run, and another publishes with a token.

A draft is a JSON file of texts. `load_draft` takes nothing else from the job that prepared it: each
text has to have its form, whoever wrote it.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Final

from publish_results import LONGEST_BODY, PublishError, read_text

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_LINE: Final = r"[^\x00-\x1f\x7f-\x9f\u2028\u2029]"
_BODY: Final = rf"[^\x00-\x08\x0b-\x1f\x7f-\x9f]{{0,{LONGEST_BODY}}}"
_ADDED: Final = r"[A-Za-z0-9_][A-Za-z0-9_.+-]{0,99}"

FORMS: Final = {
    "comment": {"text": _BODY},
    "issue": {
        "title": rf"{_LINE}{{1,256}}",
        "candidate": "[0-9a-f]{16}",
        "finding": "[0-9a-f]{16}",
        "body": _BODY,
    },
    "baseline": {
        "branch": rf"baseline/(?!.*\.\.){_ADDED}(?<!\.lock)(?<!\.)",
        "releases": rf"{_LINE}{{1,200}}",
        "body": _BODY,
    },
}
"""The texts of each kind of draft, and the form of each."""

_NOTHING: Final = {"nothing": rf"{_LINE}{{1,10000}}"}
"""In place of a draft: why there is nothing to publish."""


def write_draft(folder: Path, kind: str, texts: Mapping[str, str]) -> None:
    """Write a draft. Raises `PublishError` if a text is not of its form."""
    check_draft(kind, texts, folder / f"{kind}.json")
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}.json").write_text(json.dumps(texts, indent=1), encoding="utf-8")


def write_nothing(folder: Path, kind: str, why: str) -> str:
    """Write that there is nothing to publish; return why."""
    why = "".join(letter if letter.isprintable() else " " for letter in why)[:10000]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{kind}.json").write_text(json.dumps({"nothing": why}), encoding="utf-8")
    return why


def load_draft(folder: Path, kind: str) -> dict[str, str]:
    """Read a draft, or why there is none, under `nothing`. Raises `PublishError`."""
    path = folder / f"{kind}.json"
    text = read_text(path, remedy="Make it with `python tools/ci/prepare.py`.")
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise PublishError(f"{path}: is not JSON ({error})") from error
    check_draft(kind, found, path)
    draft: dict[str, str] = found
    return draft


def check_draft(kind: str, found: object, path: Path) -> None:
    """Raise `PublishError` if a value is neither a draft of a kind nor says why there is none."""
    forms = _NOTHING if isinstance(found, dict) and "nothing" in found else FORMS[kind]
    if not isinstance(found, dict) or found.keys() != forms.keys():
        raise PublishError(f"{path}: is no draft, which has {', '.join(forms)} and nothing else")
    for name, form in forms.items():
        if not isinstance(found[name], str) or not re.fullmatch(form, found[name]):
            raise PublishError(
                f"{path}: {name} is {found[name]!r:.200}, which does not have the form {form}"
            )
