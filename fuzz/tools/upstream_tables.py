"""Show what the claims say of upstream's rows: lines for the terminal, tables for the docs."""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

from peft_regress.text import count_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from upstream_measuring import Result
    from upstream_source import Row

__all__ = ["TABLES", "line", "summary", "tables"]

TABLES = ("count", "rows", "broken")


def line(result: Result) -> str:
    """Return one line for the terminal."""
    cost = "" if result.ratio is None else f", {result.ratio:.2f} times the forward FLOPs"
    found = [
        f"\n  {what}: {said}\n    {reason or 'NOT EXPLAINED'}"
        for (what, said), reason in zip(result.broken.items(), result.reasons.values(), strict=True)
    ]
    return f"{result.row.name} ({result.row.network}): {_claims(result)}{cost}{''.join(found)}"


def _claims(result: Result) -> str:
    held, broken = len(result.held), len(result.broken)
    return f"{held} of {count_of(held + broken, 'claim')} hold"


def summary(results: Sequence[Result], *, version: str) -> str:
    """Return how many claims were checked, and how many hold."""
    held = sum(len(one.held) for one in results)
    broken = sum(len(one.broken) for one in results)
    unexplained = sum(reason is None for one in results for reason in one.reasons.values())
    sound = sum(not one.broken for one in results)
    return (
        f"peft {version}: {count_of(len(results), 'row')} on "
        f"{count_of(len({one.row.network for one in results}), 'network')}, "
        f"{held + broken:,} claims, of which {held:,} hold. All hold for {count_of(sound, 'row')}. "
        f"{unexplained or 'None'} of the other {broken} is without an explanation."
    )


def tables(results: Sequence[Result], *, version: str) -> dict[str, str]:
    """Return what stands between the markers of the page, by name."""
    return {
        "count": summary(results, version=version),
        "rows": _rows(results),
        "broken": _broken(results),
    }


def _rows(results: Sequence[Result]) -> str:
    groups: defaultdict[tuple[str, str], list[Result]] = defaultdict(list)
    for one in results:
        groups[one.row.config.removesuffix("Config"), one.row.network].append(one)
    lines = [
        "| configuration | network | rows | claims | hold | no claim | forward FLOPs |",
        "| --- | --- | ---: | ---: | ---: | --- | ---: |",
    ]
    for (config, network), ones in sorted(groups.items(), key=lambda item: item[0]):
        held = sum(len(one.held) for one in ones)
        claims = held + sum(len(one.broken) for one in ones)
        unclaimed = ", ".join(sorted({what for one in ones for what in one.unclaimed}))
        ratios = [one.ratio for one in ones if one.ratio is not None]
        cells = [config, network, str(len(ones)), str(claims), str(held), unclaimed, _span(ratios)]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _span(ratios: Iterable[float]) -> str:
    shown = sorted({f"{ratio:.2f}x" for ratio in ratios}, key=lambda text: float(text[:-1]))
    return shown[0] if len(shown) == 1 else f"{shown[0]} to {shown[-1]}" if shown else ""


def _broken(results: Sequence[Result]) -> str:
    causes: defaultdict[tuple[str, str], list[Row]] = defaultdict(list)
    for one in results:
        for what, reason in one.reasons.items():
            causes[what, reason or "**not explained**"].append(one.row)
    lines = ["| claim | does not hold for | why |", "| --- | --- | --- |"]
    for (what, reason), rows in causes.items():
        names = "; ".join(dict.fromkeys(row.name for row in rows))
        shown = f"`{what}`" if "_" in what else what
        lines.append(f"| {shown} | {names} | {reason} |")
    return "\n".join(lines) if causes else "All claims hold."


def as_json(
    results: Sequence[Result], *, version: str, unread: Sequence[str]
) -> Mapping[str, object]:
    """Return all that was measured, as JSON values."""
    return {
        "peft": version,
        "unread": list(unread),
        "rows": [
            {
                "name": one.row.name,
                "network": one.row.network,
                "config": one.row.config,
                "settings": one.row.settings,
                "held": list(one.held),
                "broken": {
                    what: {"found": said, "why": one.reasons[what]}
                    for what, said in one.broken.items()
                },
                "unclaimed": list(one.unclaimed),
                "flops_ratio": one.ratio,
                "record": one.record,
            }
            for one in results
        ],
    }
