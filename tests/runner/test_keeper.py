"""What a search measured is kept, and a search that died goes on where it was."""

import dataclasses
from importlib.metadata import version
from pathlib import Path

import pytest
from builders import MACHINE, cases_in, curve, make_record
from fake_interpreters import logged, write_worker
from package_world import SETUP as WORLD

from peft_regress.catalogue.matrix import parse_case_id
from peft_regress.errors import InputError
from peft_regress.gate.repeats import KnownCurve
from peft_regress.interrupts import EndingSignal
from peft_regress.overlay.pip import Planned
from peft_regress.runner import keeper
from peft_regress.runner.keeper import kept_records
from peft_regress.runner.measuring import measure_cases, save_run
from peft_regress.runs.journal import journal_of, read_journal

ROOT = Path(__file__).parents[2]
SETUP = dataclasses.replace(WORLD, baselines=ROOT / "baselines", time_limit=120)
IDS = ["shift/head/resnet18", "shift/lora-r4/resnet18", "unseen/lora-r4/resnet18"]
CASES = [parse_case_id(name) for name in IDS]


class Search:
    """Measures three cases in a fake environment, and keeps them beside a run file."""

    def __init__(self, folder):
        self.folder = folder
        self.save = folder / "run.json"
        self.said: list[str] = []

    def run(
        self,
        *,
        resume=None,
        stop_after=None,
        packages=None,
        uses=None,
        trains=True,
        save=True,
        known=None,
        planned=(),
    ):
        """Measure; return the ids that a worker measured now."""
        packages = packages or {"peft": "0.14.0"}
        python = write_worker(self.folder / "python", packages=packages, uses=uses)
        before = len(logged(python, "measure"))
        done = []

        def on_record(record):
            done.append(record.case.id)
            if len(done) == stop_after:
                raise EndingSignal

        try:
            with kept_records(self.save if save else None, resume, self.said.append) as keeper:
                setup = dataclasses.replace(SETUP, keeper=keeper)
                options = {"setup": setup, "trains": trains, "on_record": on_record}
                options |= {"planned": planned}
                run = measure_cases(CASES, python=Path(python), known=known, **options)
                assert sorted(run.cases) == sorted(IDS)
                self.environment = run.environment
                save_run(self.folder / "done.json", run)
                self.repeated = [name for name in IDS if run.cases[name].is_repeat]
        except EndingSignal:
            assert stop_after is not None
        return [request["case"] for _, request in logged(python, "measure")[before:]]


@pytest.fixture
def search(tmp_path):
    return Search(tmp_path)


@pytest.mark.parametrize("name", ["run.json", "run.json.journal"])
def test_a_search_that_was_ended_goes_on_where_it_was(search, name):
    first = search.run(stop_after=2)
    kept = cases_in(journal_of(search.save))
    assert kept == set(first[:2])
    assert f"What was measured is in {journal_of(search.save)}: `--resume" in search.said[-1]
    second = search.run(resume=search.save.with_name(name))
    assert set(second) == set(IDS) - kept
    assert search.said[-1].endswith(f"{name}: 2 cases taken, 1 measured")
    assert not journal_of(search.save).exists()


@pytest.mark.parametrize("other", [{"packages": {"peft": "0.15.0"}}, {"trains": False}])
def test_of_other_packages_or_of_costs_alone_nothing_is_taken(search, other):
    search.run(stop_after=2)
    assert len(search.run(resume=search.save, **other)) == 3
    assert search.said[-1].endswith("0 cases taken, 3 measured")
    assert ("peft 0.14.0, now 0.15.0" in search.said[-2]) == ("packages" in other)


CHECKOUT = Planned(name="peft", version="0.14.0", source="peft @ file:///a.whl", digest="ab")


@pytest.mark.parametrize("planned", [(), [dataclasses.replace(CHECKOUT, digest="cd")]])
@pytest.mark.parametrize("ended", [False, True])
def test_of_another_checkout_of_the_same_version_nothing_is_taken(search, planned, ended):
    search.run(planned=[CHECKOUT], stop_after=None if ended else 2)
    file = search.folder / "done.json" if ended else search.save
    # An equal build lies elsewhere.
    same = [dataclasses.replace(CHECKOUT, source="peft @ file:///b.whl")]
    assert len(search.run(resume=file, planned=same, stop_after=3)) == (0 if ended else 1)
    assert len(search.run(resume=file, planned=planned)) == 3
    assert search.said[-2].endswith("peft of another source")


def test_a_case_whose_own_code_was_edited_is_measured_again(search, monkeypatch):
    search.run(stop_after=2)
    monkeypatch.setattr(keeper, "was_edited", lambda record, _: record.case.id == IDS[0])
    assert search.run(resume=search.save) == [IDS[0], IDS[2]]


def test_a_run_names_what_its_taken_cases_use_of_which_another_release_is_measured(search):
    uses = {"pytest": version("pytest")}
    search.run(stop_after=2, uses=uses)
    kept = read_journal(journal_of(search.save))
    assert [line.kept.imported for line in kept] == [uses, uses]
    assert len(search.run(resume=search.save)) == 1
    assert search.environment == {"peft": "0.14.0", **uses}
    # The packages of the header, which every case needs, are the same.
    search.run(stop_after=2, uses={"pytest": "0.1"})
    assert len(search.run(resume=search.save)) == 3


def test_a_file_to_resume_is_made_and_without_being_asked_nothing_is_kept(search):
    search.run(save=False)
    assert [path.name for path in search.folder.iterdir() if "journal" in path.name] == []
    file = search.folder / "bisect"
    search.run(save=False, resume=file, stop_after=1)
    assert len(search.run(save=False, resume=file)) == 2


def test_the_journal_of_a_search_that_died_is_named_and_put_aside(search):
    search.run(stop_after=2)
    assert len(search.run()) == 3
    aside = search.folder / "run.json.journal.1"
    said = f"{aside}: of a run that did not end; `--resume {aside}` takes what it measured"
    assert any(line.startswith(said) for line in search.said)
    assert len(search.run(resume=aside)) == 1


def test_a_file_that_is_no_run_file_is_refused(search):
    search.save.write_text("text")
    with pytest.raises(InputError, match="not valid JSON"):
        search.run(resume=search.save)


def known(name, *, departs=None):
    of = {"definition": make_record().definition, "machine": MACHINE.digest}
    return {name: [KnownCurve(curve=curve(departs), run_name="peft 0.13.0", **of)]}


FIRST_SEED = {IDS[0]: [KnownCurve(curve=None, run_name="base")]}


def test_a_repeating_case_is_taken_while_what_it_repeats_is_known(search):
    search.run(stop_after=2, known=known(IDS[0]))
    assert search.run(resume=search.save, stop_after=3, known=known(IDS[0])) == IDS[2:]
    assert search.run(resume=search.save, known=known(IDS[0])) == []
    assert search.repeated == IDS[:1]


@pytest.mark.parametrize(
    ("now", "is_taken"),
    [(FIRST_SEED, True), (None, False), (known(IDS[0], departs=9), False), (known(IDS[1]), False)],
)
def test_a_repeating_case_is_taken_where_the_first_seed_suffices_and_else_measured(
    search, now, is_taken
):
    search.run(stop_after=2, known=known(IDS[0]))
    assert search.run(resume=search.save, known=now) == ([] if is_taken else IDS[:1]) + IDS[2:]
    # A case that was trained in full does for every search.
    assert IDS[1] not in search.repeated
    # Costs alone repeat nothing.
    search.run(trains=False, known=known(IDS[0]))
    assert search.repeated == []
