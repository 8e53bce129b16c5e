"""Fixtures and settings of the tests of both distributions."""

import functools
import gc
import itertools

import cpuinfo
import pytest
from restored import registry_restored

from peft_regress.cli.main import main
from peft_regress.project import project
from peft_regress.report.layout import PLAIN

# Each run file says what the processor is. To find it out takes a process, and a tenth of a second
# of sleep, each time.
cpuinfo.get_cpu_info = functools.cache(cpuinfo.get_cpu_info)
_THAWED = itertools.count()


@pytest.hookimpl(tryfirst=True)  # before hypothesis reads `--hypothesis-profile`
def pytest_configure():
    """Let every run try the same examples, each for as long as a busy machine takes."""
    # pytest-benchmark's commands import this module too, where hypothesis may be missing.
    from hypothesis import settings

    settings.register_profile("same", deadline=None, derandomize=True)
    settings.register_profile(
        "nightly", max_examples=1000, deadline=None, derandomize=False, print_blob=True
    )
    settings.load_profile("same")


def pytest_runtest_setup():
    """Leave what is loaded out of every collection of garbage: torch takes a fifth of a second.

    pytest collects garbage at the end of each run, also of one inside a test. A training whose
    memory was watched ends with everything among what is collected again; after each eighth one,
    garbage is collected first.
    """
    # Not by `gc.get_freeze_count()`, which walks over all that is frozen: 60 ms for each test.
    if len(gc.get_objects(generation=2)) > 100_000:
        if next(_THAWED) % 8 == 0:
            gc.collect()
        gc.freeze()


@pytest.fixture(autouse=True)
def settings_of_the_working_folder(monkeypatch):
    """Let commands in this process find settings as in one of their own, not those of this run."""
    monkeypatch.setattr(project, "_CURRENT", project.Project())


@pytest.fixture(autouse=True)
def width_of_a_pipe(monkeypatch):
    """Lay text out as in a pipe, however wide the terminal is in which the tests run."""
    monkeypatch.setenv("COLUMNS", str(PLAIN.width))


@pytest.fixture
def clean_registry():
    with registry_restored():
        yield


@pytest.fixture
def command(capsys):
    """Call `peft-regress` and return (exit code, stdout, stderr)."""

    def call(*arguments):
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        captured = capsys.readouterr()
        assert "Traceback" not in captured.err
        return int(stopped.value.code or 0), captured.out, captured.err

    return call
