"""Finding again what upstream has mended: the list, the searches, the decision, the tables."""

from __future__ import annotations

import contextlib
from types import SimpleNamespace

import pytest
import rediscovery
import rediscovery_runs
from fuzz_examples import example, failure, finding, layer
from packaging.version import Version
from rediscovery_data import LIST, Sign, read_known
from rediscovery_results import decide, read_results
from rediscovery_runs import SearchSettings, SearchState, Studied, replayed, search
from rediscovery_tables import TABLES, tables

from peft_fuzz.example import Outcome
from peft_fuzz.methods import METHODS
from peft_fuzz.oracle.checks import CHECKS
from peft_fuzz.search.corpus import read_corpus
from peft_fuzz.search.findings import write_finding
from peft_fuzz.search.messages import Counts
from peft_regress.errors import InputError

TEXT = """
schema_version = 1
[environments]
"0.11.0" = ["transformers==4"]

[[issue]]
number = 1
title = "Merging fails"
broken = "0.10.0"
mended = "0.11.0"
kinds = ["merge"]
signs = [{ checks = ["merged"], methods = ["lo*"] }]

[[issue]]
number = 2
reported = 1
part = "DoRA"
title = "Training fails"
broken = "0.10.0"
mended = "0.11.0"
kinds = ["life"]
signs = [{ checks = ["trained"] }]

[[issue]]
number = 3
title = "A cluster fails"
broken = "0.11.0"
mended = "0.12.0"
kinds = ["life"]
beyond = "there is one machine"

[[issue]]
number = 4
title = "Loading fails"
broken = "0.11.0"
mended = "0.12.0"
kinds = ["checkpoint"]
signs = [{ checks = ["loaded"] }]

[[finding]]
page = "peft-oft-convolution.md"
release = "0.12.0"
signs = [{ checks = ["identity"] }]
"""

MERGED = finding()
TRAINED = finding(failed=failure("trained"))


@pytest.fixture
def known(tmp_path, monkeypatch):
    path = tmp_path / "list.toml"
    path.write_text(TEXT)
    monkeypatch.setattr(rediscovery, "read_known", lambda: read_known(path))
    return read_known(path)


def quiet(_):
    pass


# --- The list -------------------------------------------------------------------------------------


def test_the_list_has_thirty_defects_that_later_releases_mended():
    known = read_known()
    assert len(known.issue) >= 30
    assert all(Version(one.broken) < Version(one.mended) for one in known.issue)
    strict = {"checkpoint", "convolution", "dtype", "merge"}
    assert sum(bool(strict & {*one.kinds}) for one in known.issue if one.signs) >= 20
    assert all(
        (LIST.parents[1] / "docs" / "findings" / one.page).is_file() for one in known.finding
    )


def test_the_signs_of_the_list_name_checks_and_methods_that_exist():
    later = {"delora", "frod", "peanut"}
    for one in (*read_known().issue, *read_known().finding):
        for sign in one.signs:
            assert {*sign.checks} <= {*CHECKS}
            assert {*sign.methods} <= {*METHODS} | later


@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("number = 2", "number = 2\nnumbers = 3", "unknown field `numbers`"),
        ("number = 4", "number = 1", "#1 is there twice"),
        ('beyond = "there is one machine"', "", "#3 needs either signs or a reason"),
        ('methods = ["lo*"]', 'message = "["', "'\\[' is no regular expression"),
        ("schema_version = 1", "schema_version", "list.toml"),
        ('broken = "0.11.0"', 'broken = "v11"', "matching regex"),
    ],
)
def test_a_list_that_contradicts_itself_is_refused(old, new, problem, tmp_path):
    path = tmp_path / "list.toml"
    path.write_text(TEXT.replace(old, new, 1))
    with pytest.raises(InputError, match=problem):
        read_known(path)


OF_A_CONVOLUTION = finding(
    example(layer("conv2d", groups=2)),
    failure("exception", error="RuntimeError", where="tuners.lora.layer:merge"),
)


@pytest.mark.parametrize(
    ("sign", "fits"),
    [
        ({}, True),
        ({"methods": ("ia3", "lo*")}, True),
        ({"methods": ("ia3",)}, False),
        ({"checks": ("merged",)}, False),
        ({"acts": ("merge",), "errors": ("Runtime*",), "where": ("*:merge",)}, True),
        ({"acts": ("wrap",)}, False),
        ({"errors": ("TypeError",)}, False),
        ({"where": ("*:forward",)}, False),
        ({"traits": ("convolution", "groups")}, True),
        ({"traits": ("dilation",)}, False),
        ({"without": ("groups",)}, False),
        ({"message": "differs by"}, True),
        ({"message": "dtype"}, False),
        ({"example": '"groups":2'}, True),
        ({"example": "rank_pattern"}, False),
    ],
)
def test_a_sign_fits_a_finding_that_has_all_it_says(sign, fits):
    assert Sign(**sign).fits(OF_A_CONVOLUTION) is fits


# --- The searches ---------------------------------------------------------------------------------


class Fuzz:
    """Stands in for the fuzzer: keeps what it was called with, and finds what it is given."""

    def __init__(self, *found, seconds=60.0, problems=()):
        self.found, self.seconds, self.problems = found, seconds, problems
        self.calls = []

    def __call__(self, requirements, settings, *, progress):
        known = [one.name for one in read_corpus(settings.corpus)]
        self.calls.append((requirements, settings, known))
        for one in self.found:
            write_finding(settings.save, one)
            progress(f"found {one.name}")
        return SimpleNamespace(
            counts=Counts(lives={"lora": 7}),
            seconds=self.seconds,
            packages={"peft": "0.10.0"},
            problems=self.problems,
        )


@pytest.fixture
def fuzz(monkeypatch):
    def use(fake):
        monkeypatch.setattr(rediscovery_runs, "fuzz", fake)
        return fake

    overlay = SimpleNamespace(python="python")
    monkeypatch.setattr(
        rediscovery_runs, "opened_overlay", lambda *_, **__: contextlib.nullcontext(overlay)
    )
    return use


MINUTE = SearchSettings(minutes=1.0, jobs=2, seed=5)


def test_a_release_that_had_its_minutes_is_not_searched_again(fuzz, tmp_path):
    studied = Studied(tmp_path, "0.10.0")
    fake = fuzz(Fuzz(MERGED))
    assert search(studied, ["peft==0.10.0"], MINUTE, say=quiet)
    assert search(studied, ["peft==0.10.0"], MINUTE, say=quiet)
    ((requirements, settings, known),) = fake.calls
    assert (requirements, settings.minutes, settings.jobs, known) == (["peft==0.10.0"], 1.0, 2, [])
    assert settings.methods == "*"
    state = studied.read_state()
    assert (state.seconds, state.lives, {*state.found}) == (60.0, 7, {MERGED.name})


def test_an_interrupted_search_goes_on_without_what_it_found(fuzz, tmp_path):
    studied = Studied(tmp_path, "0.10.0")
    fuzz(Fuzz(MERGED, seconds=15.0, problems=("interrupted",)))
    assert not search(studied, [], MINUTE, say=quiet)
    again = fuzz(Fuzz(TRAINED, seconds=45.0))
    assert search(studied, [], MINUTE, say=quiet)
    ((_, settings, known),) = again.calls
    assert settings.minutes == pytest.approx(0.75)
    assert known == [MERGED.name]
    assert settings.seed != MINUTE.seed
    state = studied.read_state()
    assert state.seconds == pytest.approx(60.0)
    assert state.lives == 14
    assert state.found[TRAINED.name] >= 15.0


def test_what_was_found_is_kept_if_the_process_is_killed(fuzz, tmp_path):
    class Killed(Fuzz):
        def __call__(self, *args, **keywords):
            super().__call__(*args, **keywords)
            raise SystemExit

    fuzz(Killed(MERGED))
    studied = Studied(tmp_path, "0.10.0")
    with pytest.raises(SystemExit):
        search(studied, [], MINUTE, say=quiet)
    assert {*studied.read_state().found} == {MERGED.name} == {*studied.findings()}


def test_a_state_that_cannot_be_read_says_what_to_do(tmp_path):
    folder = tmp_path / "0.10.0"
    folder.mkdir()
    (folder / "state.json").write_text("{")
    with pytest.raises(InputError, match=r"state\.json: .* Remove it"):
        Studied(tmp_path, "0.10.0").read_state()


def test_findings_run_once_on_the_release_that_mended_them(fuzz, tmp_path, monkeypatch):
    lived = []

    class Worker:
        def __init__(self, python, methods):
            assert python == "python"
            assert methods

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def begin(self):
            pass

        def live(self, one):
            lived.append(one)
            return Outcome(failure=None if one.method == "lora" else failure())

    monkeypatch.setattr(rediscovery_runs, "LifeWorker", Worker)
    fuzz(Fuzz())
    studied = Studied(tmp_path, "0.10.0")
    other = finding(example(method="ia3"))
    for one in (MERGED, other):
        studied.findings_folder.mkdir(parents=True, exist_ok=True)
        write_finding(studied.findings_folder, one)
    for _ in range(2):
        found = replayed(studied, [], release="0.11.0", say=quiet)
        assert found == {MERGED.name: "", other.name: "merged: The output differs by 1.0."}
    assert len(lived) == 2


# --- The decision ---------------------------------------------------------------------------------


@pytest.fixture
def decided(known, tmp_path, monkeypatch):
    """Decide with these findings of 0.10.0, and how each runs on later releases."""

    def make(*pairs):
        studied = Studied(tmp_path, "0.10.0")
        studied.findings_folder.mkdir(parents=True)
        for one, _ in pairs:
            write_finding(studied.findings_folder, one)
        names = {one.name: float(number) for number, (one, _) in enumerate(pairs, start=3)}
        studied.write_state(SearchState(seconds=60.0, found=names, packages={"peft": "0.10.0"}))
        later = {one.name: text for one, text in pairs}
        monkeypatch.setattr("rediscovery_results.replayed", lambda *_, **__: later)
        return decide(known, tmp_path, jobs=2, say=quiet)

    return make


def test_a_finding_that_the_next_release_mended_shows_the_defect(decided):
    results = decided((MERGED, ""), (TRAINED, "trained: still"))
    states = {one.name: one.state for one in results.issues}
    assert states == {"#1": "found", "#2 (DoRA)": "missed", "#3": "beyond", "#4": "open"}
    assert results.issues[0].seconds == 3.0
    assert results.issues[0].finding == MERGED.name
    (searched,) = results.searched
    assert (searched.findings, searched.mended, searched.newest) == (2, 1, 1)


def test_a_finding_that_fits_no_sign_shows_nothing(decided):
    results = decided((finding(example(method="ia3")), ""))
    assert results.issues[0].state == "missed"


def test_the_tables_have_each_defect_and_a_link(decided, known):
    found = tables(decided((MERGED, "")), known)
    assert set(found) == set(TABLES)
    assert "fuzzer found 1, missed 1, and cannot find 1" in found["count"]
    assert "pull/1): Merging fails | 0.10.0 | 0.11.0 | merge | 3 s |" in found["issues"]
    assert (
        "pull/2) (DoRA): Training fails | 0.10.0 | 0.11.0 | life | **missed** |" in found["issues"]
    )
    assert "A cluster fails: there is one machine." in found["issues"]
    assert "[peft-oft-convolution](findings/peft-oft-convolution.md)" in found["findings"]
    assert "| 0.10.0 | 1.0 min | 0 | 1 | 1 | 0 |" in found["releases"]


# --- The command ----------------------------------------------------------------------------------


def test_list_searches_nothing(known, capsys, monkeypatch):
    monkeypatch.setattr(rediscovery, "search", None)
    assert rediscovery.main(["--list"]) == 0
    assert "0.10.0  #2 (DoRA)" in capsys.readouterr().out


def test_a_release_without_a_defect_is_refused(known):
    with pytest.raises(SystemExit, match=r"no defect is sought in 9; releases: 0\.10\.0, 0\.11\.0"):
        rediscovery.main(["--releases", "9"])


def test_the_command_searches_decides_and_writes(known, fuzz, tmp_path, capsys, monkeypatch):
    fuzz(Fuzz(MERGED))
    monkeypatch.setattr("rediscovery_results.replayed", lambda *_, **__: {MERGED.name: ""})
    results, page = tmp_path / "results.json", tmp_path / "page.md"
    page.write_text(rediscovery.PAGE.read_text())
    monkeypatch.setattr(rediscovery, "PAGE", page)
    options = ["--folder", str(tmp_path / "runs"), "--results", str(results)]
    assert rediscovery.main(["--minutes", "1", *options]) == 0
    assert "found 1, missed 2" in capsys.readouterr().out
    assert len(read_results(results).searched) == 3
    assert rediscovery.main(["--check", *options]) == 1
    assert rediscovery.main(["--write", *options]) == 0
    assert rediscovery.main(["--check", *options]) == 0


def test_an_interrupt_ends_with_3_and_the_results_so_far(
    known, fuzz, tmp_path, capsys, monkeypatch
):
    fake = fuzz(Fuzz(MERGED, seconds=10.0, problems=("interrupted",)))
    monkeypatch.setattr("rediscovery_results.replayed", lambda *_, **__: {MERGED.name: ""})
    options = ["--folder", str(tmp_path / "runs"), "--results", str(tmp_path / "results.json")]
    assert rediscovery.main(["--minutes", "1", *options]) == 3
    assert len(fake.calls) == 1
    assert "same command" in capsys.readouterr().err
    assert read_results(tmp_path / "results.json").issues[0].state == "found"


def test_results_that_are_not_there_say_how_to_make_them(known, tmp_path):
    with pytest.raises(SystemExit, match=r"Make them with `python fuzz/tools/rediscovery\.py`"):
        rediscovery.main(["--write", "--results", str(tmp_path / "none.json")])
