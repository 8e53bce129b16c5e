"""Compare the inputs of two trainings: weights, batches, optimizer, trained parameters. Pure."""

from __future__ import annotations

import itertools
import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Final, NamedTuple

from msgspec import UNSET

from peft_regress.metrics import Kind
from peft_regress.runs.schema import Inputs, Record, ScriptFacts, TensorSummary

OF_INPUTS: Final[frozenset[Kind]] = frozenset({"fingerprint", "accuracy", "score"})
"""The kinds of metrics whose values depend on the weights and the data that go in."""
TOLERANCE: Final = 1e-5
"""How far a number of the inputs may differ, relative to its size: processors sum differently."""
_RATE_TOLERANCE: Final = 1e-9
_MOST_NAMES: Final = 3


class Difference(NamedTuple):
    """One number or shape that differs between the inputs of both sides."""

    where: str
    old: str
    new: str


def first_difference(old: Record, new: Record) -> Difference | None:
    """Return the first difference between the inputs of two records.

    None if there is none, or if a side did not record its inputs. A number, or a tensor of a batch,
    that only one side has is no difference: the other may not have known it.
    """
    if old.inputs is UNSET or new.inputs is UNSET:
        return None
    found = _differences(old.inputs, new.inputs)
    if old.script is UNSET or new.script is UNSET:
        found = itertools.chain(found, optimizer_differences(old.inputs, new.inputs))
    else:
        # A script's optimizer is chosen by the libraries that it uses, and judged by itself.
        found = itertools.chain(found, _batch_differences(old.script, new.script))
    return next(found, None)


def _batch_differences(old: ScriptFacts, new: ScriptFacts) -> Iterator[Difference]:
    """Yield each argument whose whole numbers differ, with the first micro-batch that does."""
    for name in sorted(old.batches.keys() & new.batches.keys()):
        pairs = enumerate(zip(old.batches[name], new.batches[name], strict=False), 1)
        for at, (was, now) in pairs:
            if was != now:
                yield Difference(f"{name} of micro-batch {at}", was, now)
                break


def _differences(old: Inputs, new: Inputs) -> Iterator[Difference]:
    if old.weights and new.weights:
        yield from _tensor_differences("weights", old.weights, new.weights)
        for name in sorted(old.weights.keys() ^ new.weights.keys()):
            where = f"weights {name}"
            before, after = (
                "absent" if name not in side else shape_text(side[name].shape)
                for side in (old.weights, new.weights)
            )
            yield Difference(where, before, after)
    yield from _tensor_differences("training batches", old.train, new.train)
    yield from _tensor_differences("test batches", old.test, new.test)


def optimizer_differences(old: Inputs, new: Inputs) -> Iterator[Difference]:
    """Yield each number of a parameter group that differs at the start."""
    if old.optimizer and new.optimizer and len(old.optimizer) != len(new.optimizer):
        yield Difference("optimizer groups", str(len(old.optimizer)), str(len(new.optimizer)))
    for number, (was, now) in enumerate(zip(old.optimizer, new.optimizer, strict=False)):
        for name in sorted(was.keys() & now.keys()):
            if not math.isclose(was[name], now[name], rel_tol=TOLERANCE):
                where = f"optimizer group {number}, {name}"
                yield Difference(where, f"{was[name]:g}", f"{now[name]:g}")


def rate_difference(old: Record, new: Record) -> Difference | None:
    """Return the first step after which a learning rate differs; None if a side recorded none.

    Rates may differ in their last bits, since machines compute a cosine differently.
    """
    if old.rates is UNSET or new.rates is UNSET:
        return None
    if len(old.rates) != len(new.rates):
        return Difference("the number of learning rates", str(len(old.rates)), str(len(new.rates)))
    for number, (was, now) in enumerate(zip(old.rates, new.rates, strict=True)):
        least = _RATE_TOLERANCE * max(map(abs, was), default=0.0)
        for step in range(max(len(was), len(now))):
            # After its last change a rate stays.
            a, b = was[min(step, len(was) - 1)], now[min(step, len(now) - 1)]
            if not math.isclose(a, b, rel_tol=_RATE_TOLERANCE, abs_tol=least):
                group = f" of group {number}" if number else ""
                return Difference(f"learning rate{group} after step {step + 1}", f"{a:g}", f"{b:g}")
    return None


def _tensor_differences(
    what: str, old: Mapping[str, TensorSummary], new: Mapping[str, TensorSummary]
) -> Iterator[Difference]:
    for name in sorted(old.keys() & new.keys()):
        before, after, where = old[name], new[name], f"{what} {name}".rstrip()
        if before.shape != after.shape:
            yield Difference(where, shape_text(before.shape), shape_text(after.shape))
        elif before.dtype != after.dtype:
            yield Difference(where, before.dtype, after.dtype)
        elif not math.isclose(before.norm, after.norm, rel_tol=TOLERANCE):
            yield Difference(where, f"norm {before.norm:.7g}", f"norm {after.norm:.7g}")
        elif not math.isclose(
            before.mean, after.mean, rel_tol=TOLERANCE, abs_tol=TOLERANCE * _typical(before)
        ):
            yield Difference(where, f"mean {before.mean:.7g}", f"mean {after.mean:.7g}")


def _typical(tensor: TensorSummary) -> float:
    """Return the root mean square of a tensor: a mean near zero has no size of its own."""
    return abs(tensor.norm) / math.sqrt(max(math.prod(map(float, tensor.shape)), 1.0))


def shape_text(shape: Sequence[int]) -> str:
    """Return a shape as '16x8x3x3'; that of a single number as 'scalar'."""
    return "x".join(map(str, shape)) or "scalar"


class ShapeChanges(NamedTuple):
    """How the named shapes of one side differ from those of the other."""

    gone: tuple[str, ...]
    come: tuple[str, ...]
    reshaped: tuple[str, ...]
    """As 'name 8x16 -> 8x32'."""

    def words(self, gone: str, come: str, reshaped: str) -> str:
        """Return the differences as words, the first few names of each after the words given."""
        parts = ((gone, self.gone), (come, self.come), (reshaped, self.reshaped))
        return "; ".join(f"{word} {_few(names)}" for word, names in parts if names)


def shape_changes(
    old: Mapping[str, Sequence[int]], new: Mapping[str, Sequence[int]]
) -> ShapeChanges | None:
    """Return how two sets of named shapes differ; None if they are equal."""
    reshaped = (
        f"{name} {shape_text(old[name])} -> {shape_text(new[name])}"
        for name in sorted(old.keys() & new.keys())
        if list(old[name]) != list(new[name])
    )
    found = ShapeChanges(
        gone=tuple(sorted(old.keys() - new.keys())),
        come=tuple(sorted(new.keys() - old.keys())),
        reshaped=tuple(reshaped),
    )
    return found if any(found) else None


def model_changes(old: Record, new: Record) -> ShapeChanges | None:
    """Return how the unadapted model changed; None if it did not, or a side did not record it."""
    sides = []
    for record in (old, new):
        if record.inputs is UNSET or not record.inputs.weights:
            return None
        sides.append({name: one.shape for name, one in record.inputs.weights.items()})
    return shape_changes(*sides)


def _few(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:_MOST_NAMES])
    left = len(names) - _MOST_NAMES
    return f"{shown} and {left} more" if left > 0 else shown
