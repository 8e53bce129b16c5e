"""The pytest options, parsed once into one frozen value, and those of pytest-benchmark."""

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Self

import pytest

from peft_regress.baselines.named_runs import check_output
from peft_regress.baselines.storage import baseline_files
from peft_regress.cases import Case
from peft_regress.catalogue.matrix import matrices_of
from peft_regress.errors import InputError
from peft_regress.files import is_folder, resolved
from peft_regress.project.project import Project, current_project
from peft_regress.project.settings import Settings, read_settings


def parse_shard(text: str) -> tuple[int, int]:
    """Read `I/N`, part I of N, counted from 1; raises `InputError` for anything else."""
    form = re.fullmatch("([0-9]{1,9})/([0-9]{1,9})", text)
    index, count = (int(form[1]), int(form[2])) if form else (0, 0)
    if not 1 <= index <= count:
        raise InputError(f"--regress-shard {text!r:.80}: I/N is wanted, for instance 1/4")
    return index, count


@dataclass(frozen=True, kw_only=True)
class RegressOptions:
    """The options of one run; `OPTIONS` says what they mean."""

    project: Project
    typed_matrix: str | None
    baseline: str | None
    baselines: Path
    """The storage that `baseline` names, or else that of the settings."""
    judged_by: str | None
    """What else it names, which judges in place of the storage."""
    cases: str | None
    full: bool
    off: bool
    resume: Path | None
    save: Path | None
    shard: tuple[int, int] | None
    """Which part, of how many."""
    strict: bool
    summary: Path | None

    @property
    def matrix(self) -> str:
        """The matrix to measure; without the option that of the settings.

        Ask after collection: a suite without settings may give its own cases to `case_params`.
        """
        return self.project.matrix if self.typed_matrix is None else self.typed_matrix

    @property
    def was_given(self) -> bool:
        """Whether an option was given that makes sense only for a run with cases."""
        given = (self.baseline, self.cases, self.resume, self.save, self.shard, self.summary)
        return self.strict or self.full or any(value is not None for value in given)

    def is_of_matrix(self, case: Case) -> bool:
        """Return whether a case belongs to the matrix of this run, or to no matrix."""
        return self.matrix in (matrices_of(case) or {self.matrix})

    @classmethod
    def of(cls, config: pytest.Config) -> Self:
        """Read the options of a pytest run, and take the settings of its project.

        Raises `InputError` for a value out of range, and for settings that cannot be used.
        """
        option = config.getoption
        for suite in config.getini("regress_suites"):
            if not is_folder(suite):
                problem = "is no folder; name folders of tests with cases"
                raise InputError(f"regress_suites: {suite} {problem}")
        project = current_project()
        project.settings = _settings_of(config)
        shard, baseline = option("regress_shard"), option("regress_baseline")
        named = _path(config, "--regress-baseline")
        storage = named if named is not None and baseline_files(named) else None
        made = cls(
            project=project,
            typed_matrix=option("regress_matrix"),
            baseline=baseline,
            baselines=storage or project.settings.baselines,
            judged_by=None if storage else baseline,
            shard=None if shard is None else parse_shard(shard),
            **{name: option(f"regress_{name}") for name in ("cases", "full", "off", "strict")},
            resume=_path(config, "--regress-resume"),
            save=_path(config, "--regress-save"),
            summary=_path(config, "--regress-summary"),
        )
        if made.off and made.was_given:
            raise InputError(
                "--regress-off leaves nothing to another --regress-... option: drop one of them"
            )
        for name, path in (("save", made.save), ("summary", made.summary)):
            if path is not None:
                check_output(path, f"--regress-{name}", storage=made.baselines)
        return made


OPTIONS: Final = {
    "baseline": (
        "NAME|PATH",
        (
            "judge only by this entry, run file or folder of shards; or take this storage in place "
            "of that of the settings (each case by its newest accepted baseline, and its drift by "
            "an older one)"
        ),
    ),
    "cases": ("GLOB", "measure only the cases whose id matches, such as 'shift/*'"),
    "full": (None, "train every seed in full, also where the first one repeats the baseline"),
    "matrix": (
        "NAME",
        (
            "measure the cases of this matrix, for instance extended (default: that of "
            "[tool.peft_regress] in pyproject.toml, else default)"
        ),
    ),
    "off": (None, "do nothing: skip the tests that measure a case, and expect no case"),
    "resume": (
        "PATH",
        (
            "take what an earlier run measured, by its journal or run file, where definition, "
            "packages, machine and commit are the same; measure the rest"
        ),
    ),
    "save": ("PATH", "write the run file here, also if the run fails or is interrupted"),
    "shard": ("I/N", "measure part I of N; all cases of an architecture are in one part"),
    "strict": (None, "also fail on improvements that were not accepted"),
    "summary": ("PATH", "write the verdict as Markdown to this file"),
}
"""The options `--regress-NAME`: what stands for the value of one that has a value, and its help."""


def add_options(parser: pytest.Parser) -> None:
    """Declare the `--regress-...` options in a group of their own."""
    group = parser.getgroup("peft_regress", "peft_regress: gate on efficiency and function")
    for name, (metavar, text) in OPTIONS.items():
        kind = {"action": "store_true"} if metavar is None else {"metavar": metavar}
        group.addoption(f"--regress-{name}", help=text, **kind)
    parser.addini(
        "regress_suites",
        "folders of the tests that measure cases: a run of one of them that collects no case fails "
        "(default: a run of any folder, if the project has baselines)",
        type="paths",
        default=[],
    )


def _settings_of(config: pytest.Config) -> Settings:
    """Return the settings nearest to the tests that were asked for, or those of pytest's rootdir.

    A project inside another one has its own, where the outer one alone configures pytest.
    """
    if config.args:
        here = config.invocation_params.dir
        asked = [os.path.join(here, word.partition("::")[0]) for word in config.args]  # noqa: PTH118
        common = resolved(Path(os.path.commonpath(asked)))
        folder = common if is_folder(common) else common.parent
        # The code of rootdir, its conftest.py, runs anyway.
        nearest = read_settings(folder, root=resolved(config.rootpath))
        if nearest.file is not None:
            return nearest
    return read_settings(config.rootpath)


def _path(config: pytest.Config, option: str) -> Path | None:
    """Return a path relative to the folder that pytest was started in, as for its own files."""
    text: str | None = config.getoption(option)
    return None if text is None else config.invocation_params.dir / text


_FILE: Final = "file://"
_THEIR_STORAGE: Final = "file://./.benchmarks"
"""Where pytest-benchmark looks if no storage is named."""


def set_up_benchmarks(config: pytest.Config, baselines: Path) -> None:
    """Let `--benchmark-compare` read the baselines; call it before pytest-benchmark begins.

    Raises `InputError` if pytest-benchmark would write into the baseline storage.
    """
    option, here = config.option, config.invocation_params.dir
    if option.benchmark_json is not None:
        check_output(here / option.benchmark_json, "--benchmark-json", storage=baselines)
    if option.benchmark_save or option.benchmark_autosave:
        storage = here / option.benchmark_storage.removeprefix(_FILE)
        check_output(storage, "--benchmark-storage", storage=baselines)
        return
    is_ours = option.benchmark_compare and option.benchmark_storage == _THEIR_STORAGE
    if is_ours and baseline_files(baselines):
        option.benchmark_storage = f"{_FILE}{baselines}"
