"""Judge how a release loads an adapter, against the release that saved it."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, Literal, get_args

from peft_regress.text import count_of, few
from peft_regress.upgrades.compat.releases import BaseMade, Loaded, Seen

Verdict = Literal[
    "same", "loads_otherwise", "other_output", "no_merge", "refused", "incomparable", "unusable"
]

_BREAKS: Final = {"other_output", "no_merge", "refused"}
_UNKNOWN: Final = {"incomparable", "unusable"}

WORDS: Final[dict[Verdict, str]] = {
    verdict: verdict.replace("_", " ") for verdict in get_args(Verdict)
} | {"no_merge": "does not merge"}
"""What a table calls each verdict."""

TOLERANCE: Final = 3e-5
"""The largest difference of two outputs that count as the same, relative to the largest number.

It is `STORED_TOLERANCE` of the invariants. docs/upgrading.md has the largest difference of an
adapter that computes the same, and the smallest of one that computes something else.
"""

VISIBLE: Final = 10 * TOLERANCE
"""The smallest change that an adapter must make to the output of its base, relative as well.

One that does less computes what the base computes, whether a release reads it or drops it.
"""


def effect_of(seen: Seen) -> float | None:
    """Return how much an adapter changes the output of its base, relative to the largest number.

    None if the output has another shape than the base's, or the base's is zero.
    """
    return _difference(seen.adapter.outputs or [], seen.base.outputs)


@dataclass(frozen=True, kw_only=True)
class Judgement:
    """The verdict on one release."""

    verdict: Verdict
    difference: float | None = None
    """Of the output, relative to the largest number; None if it was not, or cannot be, compared."""
    merged_difference: float | None = None
    """Of the output with the adapter merged."""
    details: tuple[str, ...] = ()

    @property
    def exit_code(self) -> int:
        """1 if the release breaks the adapter, 3 if it is not known, else 0."""
        return 1 if self.verdict in _BREAKS else 3 if self.verdict in _UNKNOWN else 0


def problem_of_reference(adapter: Loaded) -> str:
    """Say why nothing can be compared with what a release made of an adapter; empty if it can."""
    if adapter.refusal:
        return f"refuses it: {adapter.refusal}"
    if not adapter.is_finite or not adapter.is_steady:
        return f"cannot compute it: {_of_output(adapter, None)[0]}"
    for words, names in (
        ("does not find in the file", adapter.missing_keys),
        ("has no place for", adapter.foreign_keys),
        ("changes the numbers of", adapter.altered_keys),
    ):
        if names:
            return f"{words} {count_of(len(names), 'tensor')}: {few(names)}"
    return ""


def judge(base: BaseMade, adapter: Loaded, reference: Seen) -> Judgement:
    """Judge what a release made of an adapter, by what the release that saved it made of it."""
    problem = _base_problem(base, reference.base)
    if problem:
        return Judgement(verdict="incomparable", details=(problem,))
    if adapter.refusal or adapter.outputs is None:
        return Judgement(verdict="refused", details=(adapter.refusal or "no output",))
    wanted = reference.adapter.outputs or []
    otherwise = tuple(_otherwise(adapter, reference.adapter))
    difference = _difference(adapter.outputs, wanted) if adapter.is_finite else None
    if not adapter.is_steady or not _agrees(difference):
        details = (*_of_output(adapter, difference), *otherwise)
        return Judgement(verdict="other_output", difference=difference, details=details)
    merged, verdict, details = _merged(adapter, reference.adapter)
    effect = effect_of(reference)
    if verdict is None and effect is not None and effect <= VISIBLE:
        verdict = "incomparable"
        nothing = (
            f"the adapter changes the output of the base by only {effect:.1e} of its "
            "largest number in the reference release: a release that drops it computes the same"
        )
        details = (nothing, *details)
    elif verdict is None:
        verdict = "loads_otherwise" if otherwise else "same"
    details = (*details, *otherwise)
    return Judgement(
        verdict=verdict, difference=difference, merged_difference=merged, details=details
    )


def _base_problem(base: BaseMade, reference: BaseMade) -> str:
    if base.weights != reference.weights:
        return "the base model has other weights here than in the reference release"
    if base.inputs != reference.inputs:
        return "the inputs are others here than in the reference release"
    difference = _difference(base.outputs, reference.outputs)
    if not _agrees(difference):
        return f"the base model itself computes something else here{_by(difference)}"
    return ""


def _difference(one: Sequence[Sequence[float]], other: Sequence[Sequence[float]]) -> float | None:
    """Return the largest difference of two outputs, relative to the largest number of a tensor.

    None if they have other shapes, or differ where the second one is zero.
    """
    if [len(row) for row in one] != [len(row) for row in other]:
        return None
    worst = 0.0
    for a, b in zip(one, other, strict=True):
        apart = max((abs(x - y) for x, y in zip(a, b, strict=True)), default=0.0)
        largest = max(map(abs, b), default=0.0)
        if apart and not largest:
            return None
        worst = max(worst, apart / largest if apart else 0.0)
    return worst if math.isfinite(worst) else None


def _agrees(difference: float | None) -> bool:
    return difference is not None and difference <= TOLERANCE


def _by(difference: float | None) -> str:
    return "" if difference is None else f", by {difference:.2g} of the largest output"


def _of_output(adapter: Loaded, difference: float | None) -> tuple[str, ...]:
    if not adapter.is_finite:
        return ("its output is NaN or infinite",)
    if not adapter.is_steady:
        return ("its output is another one each time it runs",)
    return ("its output has another shape",) if difference is None else ()


def _merged(
    adapter: Loaded, reference: Loaded
) -> tuple[float | None, Verdict | None, tuple[str, ...]]:
    """Return the difference with the adapter merged, its verdict if it is wrong, and details."""
    # Merging must not change the function: what counts is the reference's output before it.
    wanted, of_reference = reference.outputs or [], reference.merged
    if adapter.merged is None:
        if of_reference is None:
            return None, None, ()
        return None, "no_merge", (f"does not merge: {adapter.merge_problem}",)
    found = _difference(adapter.merged, wanted)
    if _agrees(found):
        return found, None, ()
    if of_reference is None:
        return found, None, (f"merging changes the output{_by(found)}; the reference cannot merge",)
    if not _agrees(_difference(of_reference, wanted)):
        # A defect of the method, not of this release.
        return found, None, (f"merging changes the output{_by(found)}, as in the reference",)
    return found, "other_output", (f"merged, it computes something else{_by(found)}",)


def _otherwise(adapter: Loaded, reference: Loaded) -> Iterator[str]:
    """Yield what is loaded in another way than in the reference."""
    for words, found, known in (
        ("the file lacks", adapter.missing_keys, reference.missing_keys),
        ("does not use", adapter.unexpected_keys, reference.unexpected_keys),
        ("changes the numbers of", adapter.altered_keys, reference.altered_keys),
    ):
        names = sorted(set(found) - set(known))
        if names:
            yield f"{words} {count_of(len(names), 'tensor')}: {few(names)}"
    ignored = set(adapter.unknown_fields) - set(reference.unknown_fields)
    ignored -= {*reference.default_fields, "peft_version"}
    if ignored:
        yield f"ignores the settings {few(sorted(ignored))}"
    for name, (written, read) in adapter.changed_fields.items():
        if reference.changed_fields.get(name) != (written, read):
            yield f"reads {name} = {written} as {read}"
    yield from _training(adapter, reference)


def _training(adapter: Loaded, reference: Loaded) -> Iterator[str]:
    if adapter.training_problem and not reference.training_problem:
        yield f"does not load to train on: {adapter.training_problem}"
    elif not adapter.training_problem and not reference.training_problem:
        more = sorted(set(adapter.trainable) - set(reference.trainable))
        fewer = sorted(set(reference.trainable) - set(adapter.trainable))
        if more:
            yield f"trains {count_of(len(more), 'more parameter')}: {few(more)}"
        if fewer:
            yield f"does not train {count_of(len(fewer), 'parameter')}: {few(fewer)}"
    thawed = set(adapter.trainable_for_inference) - set(reference.trainable_for_inference)
    if thawed:
        yield f"loaded for inference, trains {few(sorted(thawed))}"
