"""What `watch` saw of a training script, as a document."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from math import prod
from typing import TYPE_CHECKING, Final

from peft_regress.gate.inputs import shape_text
from peft_regress.metrics import format_value, make_metric
from peft_regress.report.document import Document, Section
from peft_regress.report.layout import Row, Table
from peft_regress.report.results import cost_section
from peft_regress.text import clean, count_of, few

if TYPE_CHECKING:
    from peft_regress.cost.step_cost import ByteSite
    from peft_regress.measure.scripts.observation import WatchedScript

_MOST_ROWS: Final = 12


def watched_document(shown: str, found: WatchedScript) -> Document:
    """Return the report; `shown` is the script as it was typed."""
    names = " and ".join(dict.fromkeys(clean(one.name) for one in found.optimizers))
    title = (
        f"{clean(shown)}: {count_of(len(found.steps), 'optimizer step')} of {names}"
        f" on {clean(found.model) or 'no module'}"
    )
    sections = [Section(title=title, body=(_steps(found), *_sentences(found)), level=2)]
    sections.append(_trained(found))
    if found.costs is not None:
        metrics = {name: make_metric(name, value) for name, value in found.step_metrics().items()}
        sections.append(
            cost_section("What the second step costs", metrics, found.costs.spared_at_peak)
        )
        sections.append(_by_module("Memory at its peak, by module", found.costs.bytes_at_peak))
        sections.append(_by_module("Activations saved for the backward pass", found.saved))
    return sections


def _steps(found: WatchedScript) -> Table:
    rows = tuple(
        Row.of(
            str(step.number),
            " ".join(_number(batch.loss) for batch in step.micro_batches),
            norm,
            "" if clipped == norm else clipped,
            " ".join(dict.fromkeys(f"{rate:.3g}" for rate in step.rates)),
            f"{step.seconds:.2f} s{' (recorded)' if step.is_recorded else ''}",
        )
        for step in found.steps
        for norm, clipped in [(_number(step.unclipped_norm), _number(step.gradient_norm))]
    )
    headings = ("step", "losses", "gradient norm", "clipped to", "learning rate", "time")
    return Table(headings=headings, rows=rows, numbers=(0, 2, 3, 4))


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _sentences(found: WatchedScript) -> Iterable[str]:
    batches = {len(step.micro_batches) for step in found.steps}
    yield f"micro-batches a step: {' or '.join(map(str, sorted(batches)))}"
    parts = {step.accumulation for step in found.steps}
    if parts != {1.0} and len(parts) == 1:
        (count,) = parts
        losses = " ".join(_number(step.loss and count * step.loss) for step in found.steps)
        yield f"losses are as given to backward, divided by {count:g}; x {count:g} = {losses}"
    dtypes = ", ".join(
        f"{name} {format_value(held, 'byte')}" for name, held in found.param_bytes.items()
    )
    yield f"parameters: {dtypes}; autocast: {found.autocast or 'off'}"
    for optimizer in found.optimizers:
        for at, group in enumerate(optimizer.groups):
            numbers = ", ".join(f"{clean(name)}={value:g}" for name, value in group.items())
            where = f", group {at}" if optimizer.groups[1:] else ""
            yield f"{clean(optimizer.name)}{where}: {numbers}"
    if found.costs is None:
        yield found.why_no_costs
    for phase, names in found.uncounted.items():
        yield f"no {phase}_flops: there is no formula for {', '.join(map(clean, names))}"
    yield from map(clean, found.notes)
    if found.written:
        yield f"files that the script wrote: {few(found.written)}"
    yield from (f"not seen: {clean(one)}" for one in found.unseen)
    if found.problem:
        yield f"as a case it is in error: {clean(f'{found.problem.type}: {found.problem.message}')}"


def _trained(found: WatchedScript) -> Section:
    rows = [
        Row.of(clean(name), shape_text(one.shape), one.dtype) for name, one in found.trained.items()
    ]
    total = sum(prod(one.shape) for one in found.trained.values())
    title = f"What trains: {total:,} of {total + found.frozen_params:,} parameters"
    table = Table(headings=("tensor", "shape", "dtype"), rows=tuple(rows[:_MOST_ROWS]))
    return Section(title=title, body=(table, *_rest(len(rows), "tensor")), level=2)


def _by_module(title: str, sites: Iterable[ByteSite]) -> Section:
    held: Counter[tuple[str, str]] = Counter()
    for site in sites:
        held[site.module, site.category] += site.bytes
    rows = [
        Row.of(clean(module) or "(outside any)", category, format_value(size, "byte"))
        for (module, category), size in held.most_common()
    ]
    table = Table(
        headings=("module", "category", "bytes"), rows=tuple(rows[:_MOST_ROWS]), numbers=(2,)
    )
    shown = f"{title}: {format_value(sum(held.values()), 'byte')}"
    return Section(title=shown, body=(table, *_rest(len(rows), "row")), level=2)


def _rest(count: int, what: str) -> tuple[str, ...]:
    left = count - _MOST_ROWS
    return (f"and {count_of(left, f'more {what}')}: --format json has all",) if left > 0 else ()
