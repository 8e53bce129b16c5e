"""What was measured is kept and taken again; signals end a run like Ctrl-C; crashes end nothing."""

import fcntl
import json
import os
import pty
import random
import signal
import termios
import time

import pytest
from builders import cases_in
from fake_interpreters import wait_until
from stub_measuring import CONFTEST, IDS, SUITE, InnerProject

from peft_regress.runs.run_file import read_run_file

SAVE = "--regress-save=runs/run.json"
RESUME = "--regress-resume=runs/run.json"


@pytest.fixture
def project(stubbed):
    return InnerProject(stubbed)


BLOCKED = """

def pytest_runtest_teardown(item):
    import os
    path = {path!r}
    os.path.isdir(path) or os.mkdir(path)
"""


@pytest.fixture
def dead(project):
    """A project beside a journal that has five of the eight cases, as of a run that was killed."""
    (project.folder / "conftest.py").write_text(CONFTEST + BLOCKED.format(path=str(project.save)))
    project.inner(SAVE, "-k", "head or lora-r16 or (lora-r1 and tiny2)")
    project.save.rmdir()
    assert len(project.log) == 5
    (project.folder / "conftest.py").write_text(CONFTEST)
    (project.folder / "log").unlink()
    return project


def test_an_interrupted_run_keeps_what_was_measured_and_is_incomplete(project):
    ending = "    if 'lora' in case.id:\n        raise KeyboardInterrupt\n    peft"
    project.write({"test_suite.py": SUITE.replace("    peft", ending)})
    code, _ = project.inner(SAVE, no_reraise_ctrlc=True)
    run = project.saved()
    assert (code, run.selection.complete) == (pytest.ExitCode.INTERRUPTED, False)
    assert "shift/head/tiny" in run.cases


def test_a_run_file_may_be_named_like_a_journal(project):
    name = "run.journal.json"
    saving = f"--regress-save=runs/{name}"
    project.inner(saving, "-k", "head")
    path = project.save.with_name(name)
    taken = len(read_run_file(path).run.cases)
    assert [one.name for one in path.parent.iterdir()] == [name]
    _, out = project.inner(saving, f"--regress-resume=runs/{name}")
    assert f"{taken} cases taken" in out
    assert sorted(read_run_file(path).run.cases) == IDS


def test_a_resumed_run_measures_the_rest_and_is_whole(dead):
    kept = cases_in(dead.journal)
    code, out = dead.inner(SAVE, RESUME)
    assert set(dead.log) == set(IDS) - kept
    assert "resumed runs/run.json: 5 cases taken, 3 measured" in out
    run = dead.saved()
    assert (sorted(run.cases), run.selection.complete) == (IDS, True)
    timed = json.loads(dead.save.read_text())["benchmarks"]
    assert {entry["extra_info"]["peft_regress"]["case_id"] for entry in timed} == set(IDS)
    assert not dead.journal.exists()
    assert code == 1  # no baseline


def test_the_next_run_names_the_journal_of_a_dead_one_and_keeps_it(dead):
    _, out = dead.inner(SAVE, "-k", "head")
    aside = dead.journal.with_name("run.json.journal.1")
    said = "runs/run.json.journal.1: of a run that did not end;"
    assert " ".join(out.split()).count(said) == 2  # at the start and at the end
    assert f"--regress-resume runs/{aside.name}" in out.replace("\n", " ")
    assert len(cases_in(aside)) == 5
    _, out = dead.inner(SAVE, f"--regress-resume=runs/{aside.name}")
    assert "5 cases taken, 3 measured" in out
    assert sorted(dead.saved().cases) == IDS
    assert not aside.exists()


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("Example CPU", "Another CPU", "another machine (Another CPU"),
        ('"pytest":"', '"pytest":"0.', "pytest 0."),
        ('"environment":{', '"environment":{"absent":"1",', "absent 1, now not installed"),
        ('"metrics_known":[', '"metrics_known":["x",', "another peft_regress, which measured"),
        ('"commit":"', '"commit":"0', "commit 0"),
    ],
)
def test_of_another_environment_nothing_is_taken_and_the_difference_is_named(
    dead, old, new, reason
):
    text = dead.journal.read_text()
    assert text.count(old) == 5
    dead.journal.write_text(text.replace(old, new).replace("sha256:here", "sha256:there"))
    _, out = dead.inner(SAVE, RESUME)
    flat = " ".join(out.split())
    assert "resumed none of 5 cases, measured elsewhere: " in flat
    assert reason in flat
    assert "0 cases taken, 8 measured" in flat
    assert sorted(dead.log) == IDS


def test_a_case_whose_definition_has_changed_is_measured_again(dead, monkeypatch):
    extra = (
        "\nfrom peft_regress.plugin.session import RegressSession\n"
        "usual = 'sha256:definition'\n"
        "RegressSession.define = lambda self, case: usual if 'head' in case.id else ''\n"
    )
    (dead.folder / "conftest.py").write_text(CONFTEST + extra)
    _, out = dead.inner(SAVE, RESUME)
    assert "2 cases taken, 6 measured" in out


@pytest.mark.slow
def test_a_run_file_is_resumed_too_and_a_resumed_run_that_dies_has_lost_nothing(dead):
    _, out = dead.inner(SAVE, RESUME, "-k", "head")
    assert "2 cases taken, 0 measured" in out
    text = SUITE + "    if 'lora-r1/' in case.id:\n        raise KeyboardInterrupt\n"
    (dead.folder / "test_suite.py").write_text(text)
    dead.inner(SAVE, "-k", "tiny2")
    (dead.folder / "test_suite.py").write_text(
        SUITE.replace("    peft", "    raise KeyboardInterrupt\n    peft")
    )
    code, out = dead.run(SAVE, RESUME)
    assert code == pytest.ExitCode.INTERRUPTED
    assert len(dead.kept) == 4  # no case was reached, and those of the run file are still there


def test_a_run_file_that_cannot_be_written_leaves_the_journal(project):
    (project.folder / "conftest.py").write_text(CONFTEST + BLOCKED.format(path=str(project.save)))
    code, out = project.inner(SAVE)
    assert code == 1
    assert "Traceback" not in out
    assert "What was measured is in runs/run.json.journal: `--regress-resume" in out
    assert cases_in(project.journal) == set(IDS)


@pytest.mark.parametrize(
    ("name", "workers"),
    [
        pytest.param("SIGTERM", (), marks=pytest.mark.slow),
        pytest.param("SIGKILL", (), marks=pytest.mark.slow),
        *(
            pytest.param(name, ("-n", "2"), marks=pytest.mark.nightly)
            for name in ("SIGTERM", "SIGHUP", "SIGINT", "SIGKILL")
        ),
    ],
)
def test_a_signal_at_a_random_moment_loses_no_case(project, name, workers):
    """It comes while a case is measured; the run is resumed, and each case is measured once."""
    moment = random.Random(f"{name} {len(workers)}")
    at, later = moment.randrange(1, 9), moment.uniform(0, 0.3)
    process = project.start(SAVE, *workers, seconds=0.2)
    wait_until(lambda: len(project.log) >= at)
    time.sleep(later)
    os.kill(process.pid, signal.Signals[name])
    out, _ = process.communicate(timeout=60)
    ended = {"SIGKILL": -signal.SIGKILL}.get(name, pytest.ExitCode.INTERRUPTED)
    assert process.returncode in {ended, 1}, out  # 1: it had just finished
    running = 2 if workers else 1
    if not (project.save.exists() or project.journal.exists()):
        assert len(project.log) <= running
        assert "no test with a case" not in out
        return
    if name != "SIGKILL":
        assert "Traceback" not in out
        assert project.save.exists()
        assert not project.journal.exists()
    kept = project.kept
    assert len(set(project.log) - kept) <= running, out
    before = len(project.log)
    _, out = project.run(SAVE, RESUME)
    assert f"{len(kept)} cases taken" in out.replace("1 case ", "1 cases ")
    assert sorted(project.log[before:]) == sorted(set(IDS) - kept)
    assert sorted(project.saved().cases) == IDS


@pytest.mark.slow
@pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["serial", "xdist"])
def test_a_terminal_that_goes_away_loses_no_case(project, workers):
    """The kernel sends SIGHUP, and from then on nothing can be printed."""
    ours, theirs = pty.openpty()
    process = project.start(
        SAVE,
        *workers,
        seconds=0.2,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
    )
    os.close(theirs)
    while len(project.log) < 4:
        os.read(ours, 2**16)
    reported = set(project.log[:4]) - set(project.log[-2 if workers else -1 :])
    os.close(ours)
    process.wait(timeout=60)
    assert project.save.exists()
    assert project.kept >= reported
    assert not project.journal.exists()


@pytest.mark.slow
def test_a_case_that_kills_its_worker_each_time_is_in_error_and_the_run_ends(project):
    code, out = project.run(SAVE, "-n", "2", deadly="lora-r4/tiny$")
    assert code == 1, out
    run = project.saved()
    lost = run.cases["shift/lora-r4/tiny"]
    assert (lost.status, lost.error.type) == ("error", "WorkerCrash")
    assert {name for name, record in run.cases.items() if record.status == "ok"} == set(IDS) - {
        "shift/lora-r4/tiny"
    }
    assert project.log.count("shift/lora-r4/tiny") == 1


@pytest.mark.slow
def test_a_case_that_ends_a_serial_run_leaves_the_journal(project):
    code, _ = project.run(SAVE, deadly="lora-r4/tiny$")
    assert code == 0  # nothing inside pytest can change that
    assert cases_in(project.journal) == set(project.log[:-1])
    project.run(SAVE, RESUME)
    assert sorted(project.saved().cases) == IDS


@pytest.mark.parametrize("options", [("--strict-markers",), ("-W", "error")])
def test_without_pytest_xdist_a_strict_run_measures_and_leaves_no_journal(project, options):
    code, out = project.inner("--regress-resume=absent.json", SAVE)
    assert code == pytest.ExitCode.USAGE_ERROR
    assert "absent.json: no such run file or journal" in out
    assert project.log == []
    code, out = project.inner("-p", "no:xdist", *options, SAVE)
    assert "INTERNALERROR" not in out
    assert code == 1  # no baseline
    assert sorted(project.saved().cases) == IDS
    assert [path.name for path in project.save.parent.iterdir()] == ["run.json"]
