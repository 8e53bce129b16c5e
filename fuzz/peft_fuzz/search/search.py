"""Search in one process: draw examples with hypothesis, run them, make a failing one smaller.

Hypothesis draws and shrinks. The search decides what counts as a failure: only one whose cause is
not known yet, and while one is made smaller only those that fail like it, so that shrinking never
slips from one defect to another.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import msgspec

from peft_fuzz.example import Example, Outcome
from peft_fuzz.search.causes import Cause, cause_of, is_known
from peft_fuzz.search.findings import size_of
from peft_fuzz.search.sought import Counts, Found, Sought

if TYPE_CHECKING:
    from hypothesis.strategies import SearchStrategy


_Path = tuple[str | int, ...]
_NEEDED: Final = frozenset({"kernel", "sizes", "target_modules"})
"""Keys without which an example means something else."""
_MOST_EXAMPLES: Final = 10**9
"""Time ends a search, not the number of its examples."""
_SHARE_OF_HYPOTHESIS: Final = 0.5
"""Of the time for making an example smaller; edits of its JSON have the rest."""


class _OutOfTimeError(BaseException):
    """Ends hypothesis: it takes every `Exception` for a failure."""


@dataclass
class Search:
    """One search; `seek` is called once."""

    run: Callable[[Example], Outcome]
    known: Sequence[Cause] = ()
    clock: Callable[[], float] = time.monotonic
    counts: dict[str, Counter[str]] = field(
        default_factory=lambda: {name: Counter() for name in Counts.__struct_fields__}
    )
    problem: str = ""
    """Why the first example that could not be judged was not."""
    _best: Found | None = None
    _end: float = 0.0

    def seek(
        self, examples: SearchStrategy[Example], *, seed: int, seconds: float, shrink_seconds: float
    ) -> Sought:
        """Return the first new finding, made smaller, or none if the time is over."""
        self._end = self.clock() + seconds
        self._draw(examples, seed=seed, share=_SHARE_OF_HYPOTHESIS * shrink_seconds)
        found = self._best
        if found is not None:
            self._end = self.clock() + (1 - _SHARE_OF_HYPOTHESIS) * shrink_seconds
            found = self._confirmed(shrink(found.example, self._still_fails), found.cause)
        return Sought(counts=self._counted(), found=found, problem=self.problem)

    def _draw(self, examples: SearchStrategy[Example], *, seed: int, share: float) -> None:
        import hypothesis

        # Of this search alone: hypothesis tells failures apart by type and line.
        class NewCauseError(Exception):
            pass

        @hypothesis.seed(seed)
        @hypothesis.settings(
            max_examples=_MOST_EXAMPLES,
            database=None,
            deadline=None,
            derandomize=False,
            report_multiple_bugs=False,
            phases=(hypothesis.Phase.generate, hypothesis.Phase.shrink),
            suppress_health_check=tuple(hypothesis.HealthCheck),
            verbosity=hypothesis.Verbosity.quiet,
        )
        @hypothesis.given(examples)
        def look(example: Example) -> None:
            if self.clock() > self._end:
                raise _OutOfTimeError
            is_first = self._best is None
            if self._fails(example):
                if is_first:
                    self._end = self.clock() + share
                raise NewCauseError

        try:
            look()
        except _OutOfTimeError:
            pass
        except (NewCauseError, hypothesis.errors.Flaky):
            # Flaky: an example did not fail again. `_confirmed` decides.
            pass

    def _fails(self, example: Example) -> bool:
        """Run an example; return whether it fails by a new cause, like the one found first."""
        outcome = self._lived(example)
        if outcome.failure is None:
            return False
        cause = cause_of(example, outcome.failure)
        if is_known(cause, self.known):
            self.counts["known"][example.method] += 1
            return False
        if self._best is not None and not cause.fails_like(self._best.cause):
            return False  # another search will find it
        found = Found(cause=cause, example=example, failure=outcome.failure)
        if self._best is None or size_of(example) < size_of(self._best.example):
            self._best = found
        return True

    def _lived(self, example: Example) -> Outcome:
        try:
            outcome = self.run(example)
        except Exception as error:  # noqa: BLE001  (a defect of the oracles, which ends no search)
            self.counts["unjudged"][example.method] += 1
            shown = msgspec.json.encode(example).decode()
            self.problem = self.problem or f"{type(error).__name__}: {error} of {shown}"
            return Outcome()
        self.counts["lives"][example.method] += 1
        if outcome.refused is not None:
            self.counts["refused"][example.method] += 1
        if outcome.absent is not None:
            self.counts["absent"][example.method] += 1
        return outcome

    def _still_fails(self, example: Example) -> bool:
        return self.clock() <= self._end and self._fails(example)

    def _confirmed(self, example: Example, cause: Cause) -> Found | None:
        """Return the smallest example as a finding if it fails once more, in the same way."""
        failure = self._lived(example).failure
        if failure is not None:
            again = cause_of(example, failure)
            if again.fails_like(cause):
                return Found(cause=again, example=example, failure=failure)
        self.counts["unsteady"][example.method] += 1
        return None

    def _counted(self) -> Counts:
        return Counts(**{name: dict(counter) for name, counter in self.counts.items()})


def shrink(example: Example, still_fails: Callable[[Example], bool]) -> Example:
    """Leave out parts of an example's JSON, as long as it fails; what is absent has its default.

    Hypothesis makes smaller what was drawn, by drawing again; it cannot leave out what each drawn
    example has, such as a layer's stride.
    """
    best, is_smaller = example, True
    while is_smaller:
        is_smaller = False
        for path in sorted(_paths(_as_json(best)), key=len):
            smaller = _without(best, path)
            if smaller is not None and smaller != best and still_fails(smaller):
                best, is_smaller = smaller, True
    return best


def _as_json(example: Example) -> Any:
    return msgspec.json.decode(msgspec.json.encode(example))


def _paths(value: Any, path: _Path = ()) -> Iterator[_Path]:
    """Yield the paths of all parts, the last of a list first, so that the others keep theirs."""
    items: list[tuple[str | int, Any]] = []
    if isinstance(value, dict | list):
        items = [*(value.items() if isinstance(value, dict) else enumerate(value))]
    for key, inner in reversed(items):
        if key not in _NEEDED:
            yield (*path, key)
            yield from _paths(inner, (*path, key))


def _without(example: Example, path: _Path) -> Example | None:
    value = part = _as_json(example)
    try:
        for key in path[:-1]:
            part = part[key]
        del part[path[-1]]
        made = msgspec.convert(value, Example)
    except (LookupError, TypeError, ValueError):
        return None
    return made if made.adapters and made.network.layers else None
