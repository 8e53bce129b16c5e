"""Tell where the time of a full run goes: processor seconds by phase, for each architecture.

    python tools/selfbench/phases.py                      one rank of each method, one task
    python tools/selfbench/phases.py --cases '*'          the default matrix: the table in docs
    python tools/selfbench/phases.py --cases '*/lora-*' --by method
    python tools/selfbench/phases.py --repeat             also a run that repeats the first one

Prints Markdown. Each second counts for the innermost phase that it was spent in, so that the rows
add up to the last one. Functions are wrapped from outside: the package has no timers.
"""

from __future__ import annotations

import argparse
import functools
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from peft_regress.cases import Case
    from peft_regress.gate.repeats import KnownCurve

_NOTHING: Final[dict[str, list[KnownCurve]]] = {}
_BASELINES: Final = Path(__file__).resolve().parents[2] / "baselines"

BUILD: Final = "building and wrapping models"
DATA: Final = "reading data, the definition"
PROFILE: Final = "profile: swapping tensors, the optimizer's state"
PROFILE_ONE: Final = "profile: steps at batch 1"
PROFILE_MANY: Final = "profile: steps at batch 32"
INFERENCE: Final = "inference cost"
TRAINING: Final = "training"
SVD: Final = "GaLore's SVD in it"
FIRST: Final = "the first steps alone"
EVALUATION: Final = "evaluation"
BEFORE: Final = "invariants before training"
AFTER: Final = "invariants after training"
SAVING: Final = "saving and loading adapters"
UPDATES: Final = "the optimizer by itself"
REST: Final = "the rest"
PHASES: Final = (
    BUILD, DATA, PROFILE, PROFILE_ONE, PROFILE_MANY, INFERENCE, TRAINING, SVD, FIRST,
    EVALUATION, BEFORE, AFTER, SAVING, UPDATES, REST,
)  # fmt: skip
TRAINED: Final = frozenset({TRAINING, SVD})


class Clock:
    """Processor seconds by phase: those of a phase inside another count for the inner one alone."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self._now = now
        self._running: list[str] = []
        self._since = 0.0

    @property
    def running(self) -> str:
        """Return the phase that runs; '' outside any."""
        return self._running[-1] if self._running else ""

    def enter(self, phase: str) -> None:
        """Begin a phase."""
        self._count()
        self._running.append(phase)

    def leave(self) -> None:
        """End the innermost phase."""
        self._count()
        self._running.pop()

    def _count(self) -> None:
        now = self._now()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now

    def wrap(self, owner: Any, name: str, phase: str | Callable[..., str]) -> None:
        """Count a function for a phase; a callable gets its arguments and names the phase."""
        function = getattr(owner, name)

        @functools.wraps(function)
        def clocked(*args: Any, **kwargs: Any) -> Any:
            self.enter(phase if isinstance(phase, str) else phase(*args, **kwargs))
            try:
                return function(*args, **kwargs)
            finally:
                self.leave()

        setattr(owner, name, clocked)


def watch_package(clock: Clock) -> None:
    """Wrap the functions of each phase."""
    import torch

    from peft_regress import registry
    from peft_regress.cost import profile
    from peft_regress.measure import case, recipe, rounds, step_profile
    from peft_regress.measure.invariants import InvariantWatch
    from peft_regress.measure.invariants.saving import SavingFacts
    from peft_regress.measure.objective import Objective
    from peft_regress.measure.recipe import ModelRecipe, Recipe

    for architecture in {type(item) for item in registry.items("architecture")}:
        clock.wrap(architecture, "build", BUILD)
    for owner, name in ((Recipe, "base_model"), (Recipe, "adapt"), (ModelRecipe, "adapt")):
        clock.wrap(owner, name, BUILD)
    clock.wrap(Recipe, "load_data", DATA)
    clock.wrap(case, "define", DATA)
    for name in ("profile_recipe", "profile_both"):
        clock.wrap(step_profile, name, PROFILE)
    clock.wrap(profile.Step, "take", _profiled_batch)
    clock.wrap(step_profile, "running_cost", INFERENCE)
    clock.wrap(recipe, "finetune", lambda *_, only=None, **__: TRAINING if only is None else FIRST)
    clock.wrap(torch.linalg, "svd", lambda *_, **__: _svd_in(clock.running))
    clock.wrap(Objective, "scores", EVALUATION)
    clock.wrap(InvariantWatch, "__init__", BEFORE)
    clock.wrap(InvariantWatch, "before_training", BEFORE)
    clock.wrap(InvariantWatch, "after_training", AFTER)
    clock.wrap(SavingFacts, "of", SAVING)
    clock.wrap(rounds.Rounds, "_keep_adapter", SAVING)
    clock.wrap(rounds, "optimizer_updates", UPDATES)


def _profiled_batch(step: Any, *_: Any) -> str:
    images = step.batch["inputs"]
    return PROFILE_ONE if len(images) == 1 else PROFILE_MANY


def _svd_in(phase: str) -> str:
    return SVD if phase == TRAINING else phase


def seconds_of(
    cases: Iterable[Case], clock: Clock, known: Mapping[str, list[KnownCurve]] = _NOTHING
) -> tuple[dict[Case, dict[str, float]], dict[str, list[KnownCurve]]]:
    """Measure cases as a run does; return each one's seconds by phase, and their curves.

    Cases that differ in their task share a profile, so the first of them has its seconds. known:
    the curves that the cases may repeat.
    """
    from peft_regress.gate.repeats import curves_of
    from peft_regress.gate.verdicts import Observation
    from peft_regress.measure import ProfileCache, Recipe, measure
    from peft_regress.runs.environment import describe_machine

    profiles = ProfileCache()
    found, curves = {}, {}
    for case in cases:
        clock.seconds.clear()
        clock.enter(REST)
        recipe = Recipe.of(case, _BASELINES)
        record = measure(
            recipe, profiles=profiles, timed=False, known=known.get(case.id, ())
        ).record
        clock.leave()
        found[case] = dict(clock.seconds)
        seen = Observation(
            record=record, environment={}, machine=describe_machine(), run_name="the first run"
        )
        curves[case.id] = curves_of(seen.as_reference)
    return found, curves


def imports() -> float:
    """Import what measuring needs, and read the digits; return the processor seconds."""
    started = time.process_time()
    import galore_torch  # noqa: F401
    import peft  # noqa: F401
    import torchvision  # noqa: F401

    import peft_regress.measure  # noqa: F401
    from peft_regress.catalogue.tasks import SHIFT, UNSEEN

    for task in (SHIFT, UNSEEN):
        task.definition()
    return time.process_time() - started


def table(found: dict[Case, dict[str, float]], *, by: str, phases: Sequence[str] = PHASES) -> str:
    """Return Markdown: a row for each phase, a column for each architecture or the like."""
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for case, seconds in found.items():
        groups[str(getattr(case, by))].append(seconds)
    groups["all"] = list(found.values())
    columns = [_summed(several, phases) for several in groups.values()]
    untrained = ["all but training"] if TRAINING in phases else []
    rows = (*(phase for phase in phases if columns[-1][phase]), *untrained, "all")
    return "\n".join(
        [
            f"| processor seconds | {' | '.join(groups)} |",
            f"| --- |{' --- |' * len(groups)}",
            *(f"| {row} | {' | '.join(f'{one[row]:.1f}' for one in columns)} |" for row in rows),
        ]
    )


def _summed(several: list[dict[str, float]], phases: Sequence[str]) -> dict[str, float]:
    summed = {phase: sum(one.get(phase, 0.0) for one in several) for phase in phases}
    whole = sum(summed.values())
    untrained = whole - sum(summed.get(phase, 0.0) for phase in TRAINED)
    return {**summed, "all but training": untrained, "all": whole}


def _one_of_each(cases: Iterable[Case]) -> list[Case]:
    """Return a case for each method on each architecture: of its ranks the middle one."""
    of_pairing: dict[tuple[str, str], dict[int | None, Case]] = defaultdict(dict)
    for case in cases:
        of_pairing[case.method, case.architecture].setdefault(case.rank, case)
    return [list(by_rank.values())[len(by_rank) // 2] for by_rank in of_pairing.values()]


def main() -> None:
    """Measure the chosen cases and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", help="a glob on ids; by default one rank and task of each")
    parser.add_argument("--by", choices=("architecture", "method", "task", "id"),
                        default="architecture")  # fmt: skip
    parser.add_argument("--repeat", action="store_true", help="then a run that repeats this one")
    chosen = parser.parse_args()

    from peft_regress.catalogue.matrix import select_cases

    cases = select_cases(chosen.cases)
    if chosen.cases is None:
        cases = _one_of_each(cases)
    print(f"Imports and the digits, once for each process: {imports():.1f} s.\n")
    clock = Clock()
    watch_package(clock)
    full, curves = seconds_of(cases, clock)
    print(table(full, by=chosen.by), flush=True)
    if chosen.repeat:
        repeating, _ = seconds_of(cases, clock, curves)
        print("", "A run that repeats it:", "", table(repeating, by=chosen.by), sep="\n")


if __name__ == "__main__":
    main()
