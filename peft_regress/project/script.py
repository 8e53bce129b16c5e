"""A training script to measure as it is: what to run, and for how many of its optimizer steps.

Imports no torch, so that listing and collecting cases stay fast.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, get_args

from peft_regress.cases import Case
from peft_regress.errors import InputError
from peft_regress.project.budgets import OWN_MATRIX, Bound, Budget
from peft_regress.project.fine_tune import FineTune, wrong_limits

Event = Literal["epoch", "evaluation"]


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
    until: Event | None = None
    """Whether it goes on after them, to the end of its first epoch or to its first evaluation: the
    two steps before that and the two after it are recorded too."""
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
        object.__setattr__(self, "case", Case.parse(self.id))
        for problem in (*_wrong_values(self), *wrong_limits(self)):
            raise InputError(f"Script {self.id!r}: {problem}")


def _wrong_values(given: Any) -> Iterator[str]:
    args, steps, limit = given.args, given.steps, given.time_limit
    if isinstance(args, str) or not all(isinstance(one, str) for one in args):
        yield f"{args=} is not a list of texts"
    if not isinstance(steps, int) or steps < 2:  # noqa: PLR2004
        yield f"{steps=}: costs are those of the second step: give 2 at least"
    if given.until is not None and given.until not in get_args(Event):
        yield f"until={given.until!r} is none of {', '.join(get_args(Event))}"
    if not all(isinstance(one, str) for pair in given.env.items() for one in pair):
        yield f"env={given.env!r} is not a mapping of texts"
    if not isinstance(limit, int | float) or not limit > 0:
        yield f"time_limit={limit!r} is not a number of seconds"


OwnCase = FineTune | Script
"""A case of the user's own."""
OWN_CASES: Final = (FineTune, Script)
