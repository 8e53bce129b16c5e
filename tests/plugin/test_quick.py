"""`--regress-quick` trains only what no certificate covers, and judges the run all the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

# An inner run forgets what it imports, and some libraries cannot be imported twice.
import peft  # noqa: F401
import pytest
import torch.export  # noqa: F401
from builders import accept, certified, make_run, trained, write_run
from msgspec.structs import replace
from restored import registry_restored
from stub_measuring import IDS, LOG, StubProject
from stub_tracing import CONFTEST, UNLIKE

import peft_regress.measure
from peft_regress.cli.main import main
from peft_regress.fine_tune import Bound, Budget, FineTune
from peft_regress.plugin import session
from peft_regress.plugin.session import RegressSession, is_judged_anew
from peft_regress.runs.journal import JournalWriter, journal_of
from peft_regress.runs.resuming import read_parts
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import OwnBound

if TYPE_CHECKING:
    from peft_regress.runs.schema import Run

QUICK = "--regress-quick"
SAVE = "--regress-save=runs/run.json"
RESUME = "--regress-resume=runs/run.json"
DATE = "2026-01-01T00:00:00+00:00"


class TracedProject(StubProject):
    """A project that has accepted a full run, with runs in this process."""

    def __init__(self, pytester: pytest.Pytester) -> None:
        super().__init__(pytester.path)
        self.pytester = pytester
        (self.root / "conftest.py").write_text(CONFTEST)
        full = write_run(self.root / "full.json", make_run(*map(trained, IDS)))
        accept(full, root=self.root / "baselines", reason="first", date=DATE)

    def inner(self, *arguments: str) -> tuple[int, str]:
        with registry_restored():
            done = self.pytester.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
        return done.ret, done.stdout.str() + done.stderr.str()

    def forget(self) -> None:
        (self.root / "log").unlink(missing_ok=True)

    def saved(self) -> Run:
        return read_run_file(self.save).run

    @property
    def trained(self) -> list[str]:
        log = self.root / "log"
        lines = log.read_text().splitlines() if log.exists() else []
        return [line.split()[0] for line in lines if line.endswith(" trained")]


@pytest.fixture
def project(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> TracedProject:
    monkeypatch.setattr(peft_regress.measure, "measure", peft_regress.measure.measure)
    monkeypatch.setattr(RegressSession, "define", RegressSession.define)
    monkeypatch.setattr(session, "describe_machine", session.describe_machine)
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(LOG, str(pytester.path / "log"))
    monkeypatch.chdir(pytester.path)
    return TracedProject(pytester)


def repeated(run: Run) -> set[str]:
    return {name for name, record in run.cases.items() if record.is_certified}


def judged(*arguments: str) -> int:
    """Return the exit code of `compare`, which expects only what is stored."""
    with pytest.raises(SystemExit) as ended:
        main(["compare", *arguments])
    return int(ended.value.code or 0)


def test_equal_cases_are_not_trained_and_pass(project, monkeypatch, capsys):
    monkeypatch.setenv(UNLIKE, "head/tiny2")
    (project.root / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    code, out = project.inner(QUICK, SAVE, "-W", "error")
    assert code == 0
    assert project.trained == ["shift/head/tiny2"]
    run = project.saved()
    assert repeated(run) == {*IDS} - {"shift/head/tiny2"}
    assert {one.repeated_run for one in run} == {"0001_peft-0.18.1", None}
    assert run.selection.complete
    timed = read_run_file(project.save).document["benchmarks"]
    assert [one["param"] for one in timed] == ["shift/head/tiny2"]
    assert "no regression (8 unchanged; 7 same computation)" in out
    assert "quick: 7 of 8 cases not trained" in out
    # The run judges itself: the file says the same as pytest.
    assert judged("baselines", "runs/run.json", "--stored-only") == 0
    assert "no regression (8 unchanged; 7 same computation)" in capsys.readouterr().out


def test_a_reference_that_trained_nothing_certifies_nothing(project):
    parts = [certified(trained(name)) for name in IDS]
    quick = write_run(project.root / "quick.json", make_run(*parts))
    code, out = project.inner(QUICK, f"--regress-baseline={quick}", "-k", "head")
    assert (code, len(project.trained)) == (1, 2)
    assert "training cannot be compared" in out
    project.forget()
    # One of role history never judges.
    accept(quick, root=project.root / "baselines", reason="quick", date=DATE, history=True)
    code, out = project.inner(QUICK, "-k", "head")
    assert (code, project.trained) == (0, [])
    assert "2 unchanged; 2 same computation" in out


def test_a_full_run_takes_no_case_that_was_not_trained(project):
    project.inner(QUICK, SAVE, "-k", "head")
    project.forget()
    code, out = project.inner(RESUME, SAVE, "-k", "head")
    assert (code, len(project.trained)) == (0, 2)
    assert not repeated(project.saved())
    assert "same computation" not in out


def test_a_quick_run_takes_what_the_reference_still_computes(project):
    project.inner(QUICK, SAVE, "-k", "head")
    run = project.saved()
    older = run.cases["shift/head/tiny"]
    older = replace(older, computation=replace(older.computation, graph="sha256:older"))
    write_run(project.save, replace(run, cases={**run.cases, older.case.id: older}))
    project.forget()
    code, out = project.inner(QUICK, RESUME, SAVE, "-k", "head")
    assert (code, project.trained) == (0, [])
    assert "1 case taken, 1 measured" in out
    assert len(repeated(project.saved())) == 2
    # A journal as well as a run file.
    (part,) = read_parts(project.save)
    project.save.unlink()
    writer = JournalWriter(journal_of(project.save))
    writer.add(part.header, *part.records)
    writer.close()
    project.forget()
    _, out = project.inner(QUICK, RESUME, SAVE, "-k", "head")
    assert "2 cases taken, 0 measured" in out
    assert project.log == []


def test_the_option_leaves_nothing_to_off(project):
    code, out = project.inner(QUICK, "--regress-off")
    assert code == 4
    assert "--regress-off leaves nothing" in out


@pytest.mark.nightly
def test_workers_are_as_quick(project):
    code, out = project.run(QUICK, SAVE, "-n1")
    assert (code, project.trained) == (0, [])
    assert len(repeated(project.saved())) == 8
    assert "no regression (8 unchanged; 8 same computation)" in out


def test_shards_are_as_quick(project):
    for number in (1, 2):
        shard = f"--regress-save=shards/{number}.json"
        assert project.inner(QUICK, f"--regress-shard={number}/2", shard)[0] == 0
    assert project.trained == []
    assert judged("baselines", "shards", "--stored-only") == 0


def own(**stated: object) -> FineTune:
    return FineTune(
        "mine/lora-r4/net", model=lambda: None, data=lambda: None, adapter="lora-r4", **stated
    )


@pytest.mark.parametrize(
    ("stated", "expected"),
    [
        ({}, False),
        ({"budget": Budget(peak="1 GiB")}, False),
        ({"budget": Budget(score=0.9)}, True),
        ({"bounds": {"loss": Bound(0.5, "noisy")}}, True),
    ],
)
def test_a_case_that_is_judged_by_other_limits_trains(stated, expected):
    record = certified(make_run().cases["shift/lora-r4/resnet18"])
    assert is_judged_anew(own(**stated), record) == expected
    bounds = {"loss": OwnBound(bound=0.5, reason="noisy")}
    is_alike = is_judged_anew(own(**stated), replace(record, bounds=bounds))
    assert is_alike == ("bounds" not in stated)
