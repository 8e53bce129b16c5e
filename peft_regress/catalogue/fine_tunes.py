"""Find the fine-tuning of a case: the user's own, or a built-in one."""

from __future__ import annotations

from pathlib import Path

from peft_regress.cases import Case
from peft_regress.catalogue.built_in import built_in
from peft_regress.catalogue.own_cases import own_fine_tune
from peft_regress.fine_tune import FineTune


def fine_tune_of(case: Case, baselines: Path) -> FineTune:
    """Return what a case measures.

    baselines: the folder with the source checkpoints of built-in cases. Raises `UnknownNameError`
    for a name that is not registered, `InputError` for a wrong rank, and for own cases that cannot
    be imported.
    """
    return own_fine_tune(case) or built_in(case, baselines)
