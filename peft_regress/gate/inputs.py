"""Compare what goes into a training: settings, weights, batches, optimizer, learning rates.

Pure. What an old record could not say is no difference.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, Literal, NamedTuple, get_args

from msgspec import UNSET

from peft_regress.gate.verdicts import Reason
from peft_regress.metrics import Kind
from peft_regress.runs.schema import Inputs, Record, ScriptFacts, TensorSummary
from peft_regress.text import few

OF_INPUTS: Final[frozenset[Kind]] = frozenset({"fingerprint", "accuracy", "score"})
"""The kinds of metrics whose values depend on the weights and the data that go in."""
TOLERANCE: Final = 1e-5
"""How far a number of the inputs may differ, relative to its size: processors sum differently."""
_RATE_TOLERANCE: Final = 1e-9

Aspect = Literal["dtype", "one-sided", "constant", "shape", "numbers"]
"""In which respect a tensor differs, the most telling first. `constant`: on one side alone."""
_ASPECTS: Final[tuple[Aspect, ...]] = get_args(Aspect)

_COSTS: Final = (
    "trainable_params", "adapter_bytes", "forward_flops", "backward_flops", "optimizer_flops",
    "peak_bytes",
)  # fmt: skip
"""What a reader asks of another definition; nothing is judged."""

Tensors = Mapping[str, TensorSummary]


class Difference(NamedTuple):
    """One number, shape or dtype that differs between the inputs of both sides."""

    part: str
    """`weights`, `training batches`, `test batches`, `optimizer`, or a learning rate."""
    name: str
    """Which of the part; empty where `new` says it."""
    old: str | None
    """None where `new` says in words what differs."""
    new: str
    aspect: Aspect = "numbers"

    @property
    def where(self) -> str:
        """Where it is, in words; empty where `new` says it."""
        return "" if self.old is None else f"{self.part} {self.name}".rstrip()


def telling_difference(old: Record, new: Record) -> Difference | None:
    """Return the difference between the inputs of two records that tells most.

    None if there is none, or if a side did not record its inputs. A number, or a tensor of a batch,
    that only one side has is no difference: the other may not have known it. Nor is a weight of a
    script: a release may add or drop a buffer, and the losses show what that does.
    """
    if old.inputs is UNSET or new.inputs is UNSET:
        return None
    found = _differences(old, new, old.inputs, new.inputs)
    return min(found, key=lambda one: _ASPECTS.index(one.aspect), default=None)


def _differences(old: Record, new: Record, was: Inputs, now: Inputs) -> Iterator[Difference]:
    is_script = old.script is not UNSET and new.script is not UNSET
    if was.weights and now.weights:
        yield from _of_tensors("weights", was.weights, now.weights)
        for name in () if is_script else sorted(was.weights.keys() ^ now.weights.keys()):
            before, after = (
                shape_text(side[name].shape) if name in side else "absent"
                for side in (was.weights, now.weights)
            )
            yield Difference("weights", name, before, after, "one-sided")
    yield from _of_rows("training batches", was.train, now.train, is_script=is_script)
    yield from _of_tensors("training batches", was.train, now.train)
    yield from _of_rows("test batches", was.test, now.test, is_script=is_script)
    yield from _of_tensors("test batches", was.test, now.test)
    if old.script is not UNSET and new.script is not UNSET:
        # A script's optimizer is chosen by the libraries that it uses, and judged by itself.
        yield from _of_digests(old.script, new.script)
    else:
        yield from optimizer_differences(was, now)


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as '16x8x3x3'; that of a single number as 'scalar'."""
    return "x".join(map(str, shape)) or "scalar"


def definition_reasons(old: Record, new: Record) -> Iterator[Reason]:
    """Yield each setting that differs, or if none does both digests; then the main costs."""
    changed = changed_settings(old, new) or {"": (old.definition, new.definition)}
    for name, (was, now) in changed.items():
        yield Reason(kind="definition", subject=name, old=was, new=now, obstacle="definition")
    for name in _COSTS:
        before, after = old.metrics.get(name), new.metrics.get(name)
        if before and after and before.value != after.value:
            yield Reason(
                kind="metric",
                subject=name,
                old=before.value,
                new=after.value,
                relative_change=after.value / before.value - 1 if before.value else None,
                obstacle="definition",
                spec=after.spec,
            )


def changed_settings(old: Record, new: Record) -> dict[str, tuple[str | None, str | None]]:
    """Return the settings of both sides that differ, by name; none if a side did not record any."""
    if old.settings is UNSET or new.settings is UNSET:
        return {}
    sides = old.settings, new.settings
    pairs = {name: (sides[0].get(name), sides[1].get(name)) for name in {**sides[0], **sides[1]}}
    return {name: (was, now) for name, (was, now) in pairs.items() if was != now}


def _of_tensors(part: str, old: Tensors, new: Tensors) -> Iterator[Difference]:
    for name in sorted(old.keys() & new.keys()):
        was, now = old[name], new[name]
        if was.dtype != now.dtype:
            yield Difference(part, name, was.dtype, now.dtype, "dtype")
        elif was.shape != now.shape:
            yield Difference(part, name, shape_text(was.shape), shape_text(now.shape), "shape")
        elif _is_constant(was) != _is_constant(now) and _differ(was, now):
            yield Difference(part, name, _constant_text(was), _constant_text(now), "constant")
        elif _differ(was, now):
            shown = "mean" if math.isclose(was.norm, now.norm, rel_tol=TOLERANCE) else "norm"
            before, after = (f"{shown} {getattr(one, shown):.7g}" for one in (was, now))
            is_later = was.rows is not UNSET and _count_other(was, now) == 0
            later = f" after the first {len(was.rows or ())} rows" if is_later else ""
            yield Difference(part, f"{name}{later}", before, after)


def _size(one: TensorSummary) -> float:
    """Return the root mean square of a tensor; of several batches an upper bound."""
    return abs(one.norm) / math.sqrt(max(math.prod(map(float, one.shape)), 1.0))


def _differ(was: TensorSummary, now: TensorSummary) -> bool:
    """Return whether norm or mean differ. A mean near zero has no size of its own."""
    near = TOLERANCE * _size(was)
    return not (
        math.isclose(was.norm, now.norm, rel_tol=TOLERANCE)
        and math.isclose(was.mean, now.mean, rel_tol=TOLERANCE, abs_tol=near)
    )


def _is_constant(one: TensorSummary) -> bool:
    """Return whether all numbers of a tensor are equal; of several batches, whether all are 0."""
    return math.prod(one.shape) > 1 and math.isclose(abs(one.mean), _size(one), rel_tol=1e-9)


def _constant_text(one: TensorSummary) -> str:
    return f"constant {one.mean:.7g}" if _is_constant(one) else f"norm {one.norm:.7g}"


def _of_rows(part: str, old: Tensors, new: Tensors, *, is_script: bool) -> Iterator[Difference]:
    """Say which rows of the first batch differ, in words."""
    pairs = {
        _called(name, old, is_script=is_script): (old[name], new[name])
        for name in sorted(old.keys() & new.keys())
        if (old[name].shape, old[name].dtype) == (new[name].shape, new[name].dtype)
        if UNSET not in (old[name].rows, new[name].rows)
    }
    changed = {name: pair for name, pair in pairs.items() if _count_other(*pair)}
    if not changed:
        return
    words: dict[str, list[str]] = {}
    for name, pair in pairs.items():
        words.setdefault(_rows_text(*pair), []).append(name)
    text = "; ".join(f"{few(names)} {said}" for said, names in sorted(words.items(), reverse=True))
    if _are_swapped(list(changed.values())):
        text = f"{' and '.join(changed)} are swapped"
    elif not any(_differ(*pair) for pair in changed.values()):
        text += "; norm and mean of all batches are equal"
    first = "micro-batch" if is_script else part.removesuffix("es")
    yield Difference(part, "", None, f"in the first {first}, {text}")


def _called(name: str, tensors: Tensors, *, is_script: bool) -> str:
    """Return what to call a tensor of the first batch: a pair is inputs and labels."""
    if is_script:
        name = name.removeprefix("1 ")
    elif tensors.keys() == {"0", "1"}:
        return "labels" if name == "1" else "inputs"
    return f"values of tensor {name}" if name.isdecimal() else name or "values"


def _count_other(was: TensorSummary, now: TensorSummary, *, in_order: bool = True) -> int:
    """Return how many rows differ; without `in_order`, whatever their order."""
    old, new = was.rows or [], now.rows or []
    if not in_order:
        old, new = sorted(old), sorted(new)
    near = TOLERANCE * math.hypot(*old) / math.sqrt(max(len(old), 1))
    same = (
        math.isclose(a, b, rel_tol=TOLERANCE, abs_tol=near) for a, b in zip(old, new, strict=False)
    )
    return max(len(old), len(new)) - sum(same)


def _rows_text(was: TensorSummary, now: TensorSummary) -> str:
    count, rows = _count_other(was, now), len(was.rows or ())
    if not count:
        return "are equal"
    if not _count_other(was, now, in_order=False):
        return "have another order"
    of_all = "the first " if rows < was.shape[0] else ""
    return f"differ in {count} of {of_all}{rows} rows"


def _are_swapped(pairs: Sequence[tuple[TensorSummary, TensorSummary]]) -> bool:
    """Return whether each of two tensors has the rows that the other one had."""
    if len(pairs) != 2:  # noqa: PLR2004
        return False
    (one, new_one), (other, new_other) = pairs
    return not (_count_other(one, new_other) or _count_other(other, new_one))


def _of_digests(old: ScriptFacts, new: ScriptFacts) -> Iterator[Difference]:
    """Yield each argument whose whole numbers differ, with the first micro-batch that does."""
    for name in sorted(old.batches.keys() & new.batches.keys()):
        pairs = enumerate(zip(old.batches[name], new.batches[name], strict=False), 1)
        first = next(((at, was, now) for at, (was, now) in pairs if was != now), None)
        if first is not None:
            yield Difference("training batches", f"{name} of micro-batch {first[0]}", *first[1:])


def optimizer_differences(old: Inputs, new: Inputs) -> Iterator[Difference]:
    """Yield the numbers of the optimizer's groups that differ."""
    was, now = _joined(old.optimizer, new.optimizer)
    if was and now and len(was) != len(now):
        yield Difference("optimizer", "groups", str(len(was)), str(len(now)))
    for number, (one, other) in enumerate(zip(was, now, strict=False)):
        for name in sorted(one.keys() & other.keys()):
            if not math.isclose(one[name], other[name], rel_tol=TOLERANCE):
                sides = f"{one[name]:g}", f"{other[name]:g}"
                yield Difference("optimizer", f"group {number}, {name}", *sides)


def rate_difference(old: Record, new: Record) -> Difference | None:
    """Return the first step after which a learning rate differs; None if a side recorded none.

    Rates may differ in their last bits, since machines compute a cosine differently.
    """
    if old.rates is UNSET or new.rates is UNSET:
        return None
    olds, news = _joined(old.rates, new.rates)
    if len(olds) != len(news):
        return Difference("number of learning rates", "", str(len(olds)), str(len(news)))
    for number, (was, now) in enumerate(zip(olds, news, strict=True)):
        least = _RATE_TOLERANCE * max(map(abs, was), default=0.0)
        for step in range(max(len(was), len(now))):
            # After its last change a rate stays.
            a, b = was[min(step, len(was) - 1)], now[min(step, len(now) - 1)]
            if not math.isclose(a, b, rel_tol=_RATE_TOLERANCE, abs_tol=least):
                group = f"of group {number} " if number else ""
                steps = [] if new.script is UNSET else new.script.steps  # may leave some out
                at = steps[step] if steps else step + 1
                return Difference("learning rate", f"{group}after step {at}", f"{a:g}", f"{b:g}")
    return None


def _joined(old: list[Any], new: list[Any]) -> tuple[list[Any], list[Any]]:
    """Return the groups of both sides; where their number differs, equal ones as one group."""
    if len(old) == len(new):
        return old, new
    distinct = [
        [one for at, one in enumerate(groups) if one not in groups[:at]] for groups in (old, new)
    ]
    return distinct[0], distinct[1]
