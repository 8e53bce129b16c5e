"""What is known of the accuracy of methods, by trainings to a plateau. No torch at import.

`tools/studies/accuracy_study.py` writes `evidence.json`; docs/evidence.md says what it can tell
apart. `choose --train` makes the same for a case of the user's own.
"""

import functools
import math
import statistics
from pathlib import Path
from typing import Final

import msgspec

EVIDENCE_FILE: Final = Path(__file__).with_name("evidence.json")
FULL: Final = "full"
POINTS: Final = 3.0
"""The usual margin within which two scores are equal."""


class Trained(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The scores of a method at its best rate: accuracies from 0 to 1, or those of the case."""

    rate: float
    """The learning rate, as a multiple of the method's usual one."""
    early: tuple[float, ...]
    """After a tenth of the steps; one for each seed."""
    final: tuple[float, ...]
    """At the end. A seed draws the same batches and the same new head for every method, so
    differences between methods are paired by seed."""
    longer: tuple[float, ...] = ()
    """After three times the steps, at the same rate; empty if that was not tried."""
    parts: dict[str, float] = {}
    """At the end, the mean over the seeds on a part of the test images, such as a severity."""


class Study(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Methods trained on one task and network, until full fine-tuning is near its plateau.

    Rates and steps were chosen by other seeds, and by one half of the test images; the scores are
    of the other half.
    """

    images: str
    """What was trained on, in words."""
    batch: int
    steps: int
    chance: float | None
    """The accuracy of naming the commonest class; None where scores are no accuracies."""
    untrained: float
    """The score before any training, with a new head where the task has one."""
    curve: dict[int, float]
    """The score of full fine-tuning after so many steps, each a training of its own."""
    methods: dict[str, Trained]
    """By method with its rank, such as `lora-r4`."""
    stopped: dict[str, float] = {}
    """The score, in choosing the rate, of a method that was clearly worse and not trained on."""
    hours: float = 0.0
    """Processor time of all trainings; 0 if it was not counted."""


def margin_of(study: Study, points: float) -> float:
    """Return a margin of so many points; of scores that are no accuracies, in percent of full's."""
    if study.chance is not None:
        return points / 100
    full = study.methods.get(FULL)
    score = statistics.fmean(full.final) if full else max(study.curve.values(), default=1.0)
    return points / 100 * abs(score)


def why_not_learned(study: Study) -> str:
    """Return why the study's networks have not learned, so that their order says nothing.

    Full fine-tuning must be 3 points above chance, or above the untrained model where scores are no
    accuracies, and gain at most one point by twice the steps. Empty if it does.
    """
    margin, curve = margin_of(study, POINTS), sorted(study.curve.items())
    floor = study.untrained if study.chance is None else study.chance
    if not curve:
        return "full fine-tuning could not be trained in time"
    (steps, reached), unit = curve[-1], 100 if study.chance is not None else 1
    if not reached - margin > floor:
        what = "the untrained model has" if study.chance is None else "guessing gives"
        shown = f"{unit * reached:.3g} after {steps:,} steps, where {what} {unit * floor:.3g}"
        return f"full fine-tuning at its usual rate reaches {shown}"
    before = study.curve.get(steps // 2, -math.inf)
    if reached - before > margin / 3:
        return f"full fine-tuning still learns after {steps // 2:,} steps"
    return ""


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The studies that come with the package."""

    packages: dict[str, str]
    """The releases that trained."""
    studies: dict[str, dict[str, Study]]
    """By task and network."""

    def of(self, architecture: str) -> dict[str, Study]:
        """Return the studies of a network, by task."""
        studies = self.studies.items()
        return {task: of[architecture] for task, of in studies if architecture in of}


@functools.cache
def read_evidence() -> Evidence:
    """Read the file that comes with the package."""
    return msgspec.json.decode(EVIDENCE_FILE.read_bytes(), type=Evidence)
