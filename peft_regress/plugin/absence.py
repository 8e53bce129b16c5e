"""Whether a run that collected no case should have collected one."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.baselines.storage import baseline_files
from peft_regress.errors import InputError
from peft_regress.plugin.narrowing import has_typed_suites, is_ci, narrowing_of

if TYPE_CHECKING:
    import pytest


def should_have_cases(config: pytest.Config, baselines: Path) -> bool:
    """Return whether baselines are there, and pytest was asked for a folder that holds cases.

    These are the folders of the ini option `regress_suites`; without it, every folder. A run of
    single files or tests, or one without some folder, need not have a case. With CI set, only the
    command line says any of that.
    """
    narrowing = narrowing_of(config)
    meant = set(narrowing.before_collection) - (narrowing.written_in.keys() if is_ci() else set())
    if meant or not _has_entries(baselines):
        return False
    is_named = not is_ci() or has_typed_suites(config)
    suites: list[Path] = config.getini("regress_suites") if is_named else []
    asked = [config.invocation_params.dir / argument for argument in config.args]
    return not suites or any(
        path.is_relative_to(suite) or suite.is_relative_to(path)
        for path in asked
        for suite in suites
    )


def _has_entries(baselines: Path) -> bool:
    # A folder of that name may be another tool's.
    with contextlib.suppress(InputError):
        return bool(baseline_files(baselines))
    return False
