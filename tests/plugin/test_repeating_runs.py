"""A run of pytest trains one seed of a case in full if that repeats the baseline bit for bit."""

import pytest
from builders import accept, curve, make_run, trained, write_run
from stub_measuring import IDS, InnerProject

SAVE = "--regress-save=runs/run.json"
RESUME = "--regress-resume=runs/run.json"
OTHER = "shift/head/tiny2"
"""The case that computes something else than its baseline."""


class Project(InnerProject):
    """A project with a baseline that all cases but one repeat."""

    def __init__(self, pytester):
        super().__init__(pytester)
        self.accept(*(trained(name, curve=curve(2 if name == OTHER else None)) for name in IDS))

    def accept(self, *records):
        full = write_run(self.folder / "full.json", make_run(*records))
        date = "2026-01-01T00:00:00+00:00"
        accept(full, root=self.folder / "baselines", reason="for a test", date=date)

    @property
    def repeating(self):
        """The cases of the run file of which one seed alone trained in full."""
        return {name for name, record in self.saved().cases.items() if record.is_repeat}


@pytest.fixture
def project(stubbed):
    return Project(stubbed)


def test_what_equals_its_baseline_repeats_it_and_the_run_passes(project):
    code, out = project.inner(SAVE, "-v")
    assert code == 0
    assert project.repeating == {*IDS} - {OTHER}
    assert "no regression (8 unchanged; 7 repeat the baseline)" in out
    table = {line.split()[0]: line for line in out.splitlines() if line.startswith("shift/")}
    assert "repeated" in table[IDS[0]]
    assert "repeated" not in table[OTHER]


def test_with_full_all_seeds_train(project):
    code, out = project.inner(SAVE, "--regress-full")
    assert (code, project.repeating) == (0, set())
    assert "no regression (8 unchanged)" in out
    assert "training of 7 cases: equal to 0001_peft-0.18.1 bit for bit" in out


def test_a_repeat_is_taken_while_what_it_repeats_is_known(project):
    project.inner(SAVE, "-k", "head")
    repeating = project.save.read_bytes()

    def resumed(*more):
        project.save.write_bytes(repeating)
        return project.inner(RESUME, SAVE, "-k", "head", *more)[1]

    assert "2 cases taken, 0 measured" in resumed()
    # A training in full does for every run.
    assert "1 case taken, 1 measured" in resumed("--regress-full")
    project.accept(*(trained(name, curve=curve(3)) for name in IDS))
    assert "1 case taken, 1 measured" in resumed()


@pytest.mark.nightly
def test_workers_repeat_too(project):
    code, out = project.run(SAVE, "-n2")
    assert (code, project.repeating) == (0, {*IDS} - {OTHER})
    assert "no regression (8 unchanged; 7 repeat the baseline)" in out
