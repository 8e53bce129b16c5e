"""A training script to measure as it is: what to run, and for how many of its optimizer steps.

Imports no torch, so that listing and collecting cases stay fast.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import ClassVar, Final

from peft_regress.budgets import OWN_MATRIX, Bound, Budget
from peft_regress.cases import Case
from peft_regress.errors import InputError, UnknownNameError
from peft_regress.fine_tune import FineTune
from peft_regress.metrics import METRICS


@dataclass(frozen=True)
class Script:
    """A training script that the gate measures and judges, unchanged, as it is run.

    Its first optimizer steps are watched from outside: losses, gradient norms, learning rates, what
    trains, and what a step costs. It needs no function of its own and no callback.

    Raises `InputError` for values that no script can have.
    """

    id: str
    """`<task>/<method>-r<rank>/<architecture>`, without `-r<rank>` if there is no rank."""
    script: str | Path
    """The file, relative to the folder of pyproject.toml, which is also where it runs."""
    _: KW_ONLY
    args: Sequence[str] = ()
    steps: int = 4
    """How many optimizer steps it takes before it is ended; two at least."""
    env: Mapping[str, str] = field(default_factory=dict)
    """Environment variables, over those that keep it off the network (`HF_HUB_OFFLINE=1`, ...)."""
    time_limit: float = 600
    """Seconds for one of the two runs that a measurement takes."""
    matrix: str = OWN_MATRIX
    budget: Budget | None = None
    bounds: Mapping[str, Bound] | None = None
    """Your own bounds, by metric."""
    metrics: ClassVar[None] = None
    """A script has no metrics of its author's own."""
    case: Case = field(init=False)
    """The parts of the id."""

    def __post_init__(self) -> None:
        """Refuse values that no script can have."""
        object.__setattr__(self, "case", Case.parse(self.id))
        for problem in self._problems():
            raise InputError(f"Script {self.id!r}: {problem}")

    def _problems(self) -> list[str]:
        problems = []
        if isinstance(self.args, str) or not all(isinstance(one, str) for one in self.args):
            problems.append(f"args={self.args!r} is not a list of texts")
        if not isinstance(self.steps, int) or self.steps < 2:  # noqa: PLR2004
            problems.append(
                f"steps={self.steps!r}: costs are those of the second step: give 2 at least"
            )
        if not all(isinstance(one, str) for pair in self.env.items() for one in pair):
            problems.append(f"env={self.env!r} is not a mapping of texts")
        if not isinstance(self.time_limit, int | float) or not self.time_limit > 0:
            problems.append(f"time_limit={self.time_limit!r} is not a number of seconds")
        if not (isinstance(self.matrix, str) and self.matrix.isidentifier()):
            problems.append(f"matrix={self.matrix!r} is not the name of a matrix")
        if self.budget is not None and not isinstance(self.budget, Budget):
            problems.append(f"budget={self.budget!r} is not a Budget")
        for name, bound in (self.bounds or {}).items():
            if name not in METRICS:
                problems.append(f"bounds: {UnknownNameError('metric', str(name), METRICS)}")
            elif not isinstance(bound, Bound):
                problems.append(f"bounds[{name!r}]={bound!r} is not a Bound")
        return problems


OwnCase = FineTune | Script
"""A case of the user's own."""
OWN_CASES: Final = (FineTune, Script)
