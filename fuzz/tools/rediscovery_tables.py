"""Show which defects the fuzzer found again: lines for the terminal, tables for the docs."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rediscovery_data import Issue, Known
    from rediscovery_results import Decided, Results

__all__ = ["TABLES", "lines", "tables"]

TABLES: Final = ("count", "issues", "releases", "findings")
_UPSTREAM: Final = "https://github.com/huggingface/peft/pull"
_STRICT: Final = frozenset({"checkpoint", "convolution", "dtype", "merge"})


def lines(known: Known, results: Results | None = None) -> list[str]:
    """Return a line for each defect, and what was decided."""
    decided: dict[str, Decided] = {}
    if results is not None:
        decided = {one.name: one for one in (*results.issues, *results.defects)}
    found = [
        f"{one.broken:<8}{one.name:<16}{_short(decided.get(one.name)):<14}{one.title}"
        for one in known.issue
    ]
    found += [
        f"{one.release:<8}{'finding':<16}{_short(decided.get(one.name)):<14}{one.page}"
        for one in known.finding
    ]
    return [*found, *([] if results is None else ["", _count(known, results)])]


def _short(one: Decided | None) -> str:
    if one is None:
        return ""
    return f"found {one.seconds:.0f} s" if one.seconds is not None else one.state


def tables(results: Results, known: Known) -> dict[str, str]:
    """Return what stands between the markers of the page, by name."""
    return {
        "count": _count(known, results),
        "issues": _issues(known, results),
        "releases": _releases(results),
        "findings": _findings(known, results),
    }


def _count(known: Known, results: Results) -> str:
    states = {one.name: one.state for one in results.issues}
    every = Counter(states.values())
    strict = [one for one in known.issue if _STRICT & {*one.kinds}]
    of_strict = Counter(states.get(one.name, "open") for one in strict)
    text = (
        f"Of {len(known.issue)} defects that upstream has mended, the fuzzer found "
        f"{every['found']}, missed {every['missed']}, and cannot find {every['beyond']}. Of the "
        f"{len(strict)} about convolutions, merging, data types or checkpoints it found "
        f"{of_strict['found']}."
    )
    return text + (f" {every['open']} are in releases not searched yet." if every["open"] else "")


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def _issues(known: Known, results: Results) -> str:
    decided = {one.name: one for one in results.issues}
    rows = [
        ["defect", "last broken", "mended", "kind", "found after"],
        ["---", "---", "---", "---", "---:"],
    ]
    rows += [
        [_titled(one), one.broken, one.mended, ", ".join(one.kinds), _result(decided[one.name])]
        for one in known.issue
        if not one.beyond and one.name in decided
    ]
    text = "\n".join(map(_row, rows))
    beyond = [f"- {_titled(one)}: {one.beyond}." for one in known.issue if one.beyond]
    return text + "\n\nNot sought, since the fuzzer cannot find them:\n\n" + "\n".join(beyond)


def _titled(one: Issue) -> str:
    part = f" ({one.part})" if one.part else ""
    return f"[#{one.number}]({_UPSTREAM}/{one.number}){part}: {one.title}"


def _result(one: Decided) -> str:
    if one.seconds is not None:
        return f"{one.seconds:.0f} s"
    return "not searched" if one.state == "open" else f"**{one.state}**"


def _releases(results: Results) -> str:
    rows = [
        ["release", "searched for", "lives", "findings", "mended since", "in the newest, too"],
        ["---", "---:", "---:", "---:", "---:", "---:"],
    ]
    rows += [
        [
            one.release,
            f"{one.seconds / 60:.1f} min",
            f"{one.lives:,}",
            str(one.findings),
            "" if one.mended is None else str(one.mended),
            str(one.newest),
        ]
        for one in results.searched
    ]
    return "\n".join(map(_row, rows))


def _findings(known: Known, results: Results) -> str:
    decided: Mapping[str, Decided] = {one.name: one for one in results.defects}
    rows = [["finding", "release", "found after"], ["---", "---", "---:"]]
    for one in known.finding:
        link = f"[{one.page.removesuffix('.md')}](findings/{one.page})"
        said = one.beyond and f"not sought: {one.beyond}"
        rows.append([link, one.release, said or _result(decided[one.name])])
    return "\n".join(map(_row, rows))
