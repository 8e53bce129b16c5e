"""Show which signals saw a fault: one line for the terminal, the table of docs/detection.md."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Final

from fault_catalogue import AREAS

from peft_regress.metrics import BATCH_SUFFIX, METRICS

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from fault_runs import Outcome

    from peft_regress.gate.verdicts import Reason

__all__ = ["certificates", "counts", "line", "table"]

COLUMNS: Final = (
    "costs",
    "`aten_ops`",
    "`first_losses`",
    "`filled_losses`",
    "`optimizer_updates`",
    "accuracy, loss",
    "invariants",
    "state",
    "certificate",
)
_MOST_COSTS: Final = 3


def line(outcome: Outcome) -> str:
    """Return one line for the terminal."""
    signals = ", ".join(f"{name} {far}".rstrip() for name, far in _signals(outcome.reasons))
    certificate = "" if outcome.state == "broken" else f" [certificate: {_certificate(outcome)}]"
    return f"{outcome.state:<9}{outcome.fault.name}: {signals or outcome.remark}{certificate}"


def counts(outcomes: Sequence[Outcome]) -> str:
    """Return how many faults were caught, and how."""
    found = Counter(outcome.state for outcome in outcomes)
    parts = [f"{len(outcomes)} faults", f"{found['caught']} caught"]
    if found["strict"]:
        parts.append(f"{found['strict']} taken for improvements, which fail --regress-strict")
    parts += [f"{found[state]} {state}" for state in ("uncaught", "broken") if found[state]]
    return ", ".join(parts)


def certificates(outcomes: Sequence[Outcome]) -> str:
    """Return what the certificates say of the trainings under faults."""
    found = Counter(outcome.certificate for outcome in outcomes if outcome.state != "broken")
    wrong = sum(outcome.fooled for outcome in outcomes)
    return (
        f"Certificates: {found['different']} different, {found['same']} the same as without the "
        f"fault, of which {wrong} wrong; {found['none']} trainings have none"
    )


def _certificate(outcome: Outcome) -> str:
    return f"{outcome.certificate}, wrongly" if outcome.fooled else outcome.certificate


def table(outcomes: Iterable[Outcome]) -> str:
    """Return how many faults were caught, then a Markdown table per area."""
    outcomes = list(outcomes)
    parts = [f"{counts(outcomes)}. {certificates(outcomes)}."]
    for area in AREAS:
        rows = [_row(outcome) for outcome in outcomes if outcome.fault.area == area]
        header = ["fault", "what is wrong", "case", *COLUMNS]
        lines = [header, ["---"] * len(header), *rows]
        parts.append(
            f"### {area[0].upper()}{area[1:]}\n\n"
            + "\n".join("| " + " | ".join(cells) + " |" for cells in lines)
        )
    return "\n\n".join(parts)


def _row(outcome: Outcome) -> list[str]:
    cells: dict[str, list[str]] = {column: [] for column in COLUMNS}
    for name, far in _signals(outcome.reasons):
        column = _column(name)
        shown = f"`{name}`" if column in {"costs", "accuracy, loss", "invariants"} else ""
        cells[column].append(f"{shown} {far}".strip())
    if outcome.state == "strict":
        cells["state"].append("**improved**: fails under `--regress-strict`")
    elif outcome.state != "caught":
        cells["state"].append(f"**{outcome.state}**: {outcome.remark}")
    if outcome.state != "broken":
        cells["certificate"].append(_certificate(outcome))
    costs = cells["costs"]
    if len(costs) > _MOST_COSTS:
        cells["costs"] = [*costs[:_MOST_COSTS], f"{len(costs) - _MOST_COSTS} more"]
    case = ", ".join(f"`{name}`" for name in outcome.fault.cases)
    fault = outcome.fault
    return [f"`{fault.name}`", fault.wrong, case, *map(", ".join, cells.values())]


def _column(name: str) -> str:
    if f"`{name}`" in COLUMNS:
        return f"`{name}`"
    if name in {"accuracy", "loss"}:
        return "accuracy, loss"
    if name == "status":
        return "state"
    return "costs" if name in METRICS else "invariants"


def _signals(reasons: Sequence[Reason]) -> list[tuple[str, str]]:
    """Return each signal that saw a fault, and how far beyond its bound; the farthest first.

    A cost at batch 1 and at batch 32 is one signal.
    """
    farthest: dict[str, tuple[float, str]] = {}
    for reason in reasons:
        name = reason.metric.removeprefix("invariant ").removesuffix(BATCH_SUFFIX)
        found = _distance(reason)
        farthest[name] = max(found, farthest.get(name, found))
    ordered = sorted(farthest.items(), key=lambda item: (-item[1][0], item[0]))
    return [(name, far) for name, (_, far) in ordered]


def _distance(reason: Reason) -> tuple[float, str]:
    """Return the change as a multiple of the bound; exact signals have no bound and come first."""
    if reason.metric == "status":
        return float("inf"), str(reason.new).partition(" ")[0]
    if reason.metric.startswith("invariant "):
        return float("inf"), f"{reason.old} -> {reason.new}".lower().replace("none", "null")
    if not reason.bound or reason.relative_change is None:
        return float("inf"), "exact"
    multiple = abs(reason.relative_change) / reason.bound
    return multiple, f"{_rounded(multiple)}x"


def _rounded(multiple: float) -> str:
    """Return two digits, since more differ between machines; at most one million."""
    if multiple >= 1e6:
        return "over 1,000,000"
    return f"{multiple:.1f}" if multiple < 10 else f"{float(f'{multiple:.2g}'):,.0f}"
