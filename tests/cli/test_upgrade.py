"""The command `upgrade`: what it compares with, what it prints and writes, how it ends."""

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import sys
from functools import partial
from importlib.metadata import version

import msgspec
import pytest
from builders import make_run, repeating
from package_world import World, drawn, set_world, since
from packaging.version import Version

from peft_regress.cli import upgrade as upgrade_module
from peft_regress.errors import InputError
from peft_regress.overlay.commits import Commit
from peft_regress.overlay.pip import PipError
from peft_regress.project.budgets import Budget
from peft_regress.runs import own_code
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Failure, Referee
from peft_regress.upgrades import reproduction, responsible
from peft_regress.upgrades import upgrade as upgrading
from peft_regress.upgrades.functions import FoundFunction

GLOB = "*/lora-r4/resnet18"
IDS = ["shift/lora-r4/resnet18", "unseen/lora-r4/resnet18"]
FULL, MINE = "shift/full/resnet18", "mine/full/net"
OLD = {"peft": "0.18.1", "torch": "2.0", "transformers": "4.0"}
CANDIDATE = ("peft==0.20.0",)
BOTH = (*CANDIDATE, "transformers==5.0")
HERE, ALONE = ["0.18.1", "0.20.0"], ["0.20.0"]
"""What is measured if the installed packages are, too, and if an entry stands for them."""
BEFORE = {"environment": {**OLD, "peft": "0.14.0"}, "title": "peft-0.14.0"}
"""An entry of an older release."""


def newer(**moved):
    return since("0.20.0", **moved)


def older(**moved):
    return lambda packages, _: moved if packages["peft"] < Version("0.20.0") else {}


WORSE = newer(forward_flops=2000)
BETTER = newer(forward_flops=500)


@pytest.fixture
def world(monkeypatch):
    index = {"peft": ["0.18.1", "0.20.0"], "transformers": ["4.0", "5.0"]}
    made = set_world(monkeypatch, World(installed=dict(OLD), index=index))
    monkeypatch.setattr(reproduction, "_output", lambda *_, **__: "printed")
    return made


@pytest.fixture
def store(world, project):
    """Store a baseline of what the installed packages, or others, measure."""
    project.write({"baselines/sources/manifest": "{}"})

    def call(*, number=1, names=IDS, environment=None, **how):
        packages = world.installed if environment is None else environment
        records = [world.record(packages, name) for name in names]
        project.store(number, *records, environment=packages, **how)

    return call


@pytest.fixture
def upgrade(world, store, project):
    """Type the command."""

    def call(*words, cases=GLOB):
        asked = words if any("==" in word for word in words) else (*CANDIDATE, *words)
        ended = project.run("upgrade", *asked, "--cases", cases)
        assert world.open_overlays == 0
        return ended

    return call


@pytest.fixture
def at_commit(upgrade, monkeypatch, project):
    """Type the command with a commit as base, which is release 0.18.1 or another one."""
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(project.folder / "cache"))
    title = "commit 0123456789ab, the merge base with origin/main"

    def call(*words, release="0.18.1", cases=GLOB):
        @contextlib.contextmanager
        def earlier_checkouts(requirements, base):
            assert ([*requirements], base) == ([*CANDIDATE], "merge-base")
            yield Commit([f"peft=={release}"], "0123456789abcdef", title)

        monkeypatch.setattr(upgrading, "earlier_checkouts", earlier_checkouts)
        return upgrade("--base", "merge-base", *words, cases=cases)

    return call


def scenario(*words, stored=(), commit=None, cases=GLOB, **world):
    """Return words that are typed, beside entries, with the fields of a world."""
    return words, stored, commit, cases, world


def inputs_of_release(packages, _):
    """Draw other weights with each release of peft."""
    return drawn(packages["peft"].minor)


def with_a_share(packages, name):
    """Give the stored record of a case a budget that is a share of another case's."""
    share = older(budget=Budget(of=FULL, peak_of=0.9))
    return {} if name == FULL else share(packages, name)


LOST = Failure(type="WorkerLost", message="its worker was killed by SIGSEGV")
SCENARIOS = {
    "an entry of the installed packages stands for them": scenario(stored=[{}]),
    "what only some cases use need only be installed": scenario(
        stored=[{"environment": {**OLD, "pytest": version("pytest")}}]
    ),
    "an entry with another torch does not": scenario(
        stored=[{"environment": {**OLD, "torch": "1.9"}}]
    ),
    "nor does one without a package": scenario(
        stored=[{"environment": {"peft": "0.18.1", "torch": "2.0"}}]
    ),
    "nor does one with another release of what some cases use": scenario(
        stored=[{"environment": {**OLD, "pytest": "0.1"}}]
    ),
    "nor does one of some cases": scenario(stored=[{"names": IDS[:1]}]),
    "nor does one that judges nothing": scenario(stored=[{"role": "history"}]),
    "without an entry the installed packages are measured": scenario(),
    "a run of them can be asked for": scenario("--base", "run", stored=[{}]),
    "another entry can be named": scenario(
        "--base", "0002", stored=[{}, {**BEFORE, "number": 2, "role": "history"}]
    ),
    "cases that the base does not hold are no pass": scenario(
        "--base", "0001", stored=[{"names": IDS[:1]}]
    ),
    "a package that an upgrade adds is named": scenario(
        index={"peft": ["0.20.0"], "urllib3": ["2.8.0"]}, extra={CANDIDATE[0]: ["urllib3==2.8.0"]}
    ),
    **{
        f"a package that only one side recorded is no change, as {form}": scenario(
            *("--base", "0001", "--format", form),
            stored=[{"environment": {**OLD, "lightning": "2.6.6"}}],
            moved=newer(status="error"),
        )
        for form in ("text", "json")
    },
    "something worse is told with what to do": scenario(stored=[{}], moved=WORSE),
    "JSON has every case with its reasons": scenario(
        *("--format", "json"),
        stored=[{}],
        moved=newer(forward_flops=2000, invariants={"frozen_unchanged": False}),
    ),
    "something better passes": scenario(stored=[{}], moved=BETTER),
    "something better fails if it is strict": scenario("--strict", stored=[{}], moved=BETTER),
    "nothing better passes if it is strict": scenario("--strict", stored=[{}]),
    "a case that the candidate crashes in": scenario(
        stored=[{}], moved=newer(status="error", error=LOST)
    ),
    "each of two requirements is tried alone": scenario(
        *BOTH,
        stored=[{}],
        moved=lambda packages, _: {"forward_flops": 1000 * (packages["transformers"].major - 3)},
    ),
    "which package draws other inputs is found": scenario(
        *BOTH, stored=[{}], moved=inputs_of_release
    ),
    "a base of some cases judges shares by what is stored of the other case": scenario(
        stored=[{"names": [FULL, IDS[0]]}], cases=IDS[0], moved=with_a_share
    ),
    "torch is not replaced unasked": scenario(replaces_torch=True),
    "but if it is asked for": scenario("--yes", replaces_torch=True),
    **{
        f"what a commit did already is no finding, as {form}": scenario(
            *("--format", form),
            commit="0.18.1",
            stored=[BEFORE],
            moved=since("0.18.1", forward_flops=2000),
        )
        for form in ("text", "json")
    },
    "what a change does is told with its diff": scenario(
        commit="0.18.1",
        stored=[BEFORE],
        moved=lambda packages, _: {"forward_flops": 1000 * (packages["peft"].minor - 13)},
    ),
    "a commit that is better passes since nobody accepts it": scenario(
        "--strict", commit="0.18.1", moved=BETTER
    ),
    "a change of nothing that is installed is measured once": scenario(commit="0.20.0"),
    "a budget that the commit exceeds already fails no change": scenario(
        commit="0.18.1",
        stored=[BEFORE],
        moved=lambda packages, _: (
            {"budget": Budget(peak=10)} if packages["peft"].minor == 14 else {}
        ),
    ),
}


@pytest.mark.parametrize(
    ("words", "stored", "commit", "cases", "fields"), SCENARIOS.values(), ids=SCENARIOS.keys()
)
def test_what_is_measured_and_said(
    world, store, upgrade, at_commit, snapshot, *, words, stored, commit, cases, fields
):
    if commit is not None:
        upgrade = partial(at_commit, release=commit)
        world.computes = lambda packages, _: str(packages["peft"] >= Version("0.20.0"))
    for field, value in fields.items():
        setattr(world, field, value)
    for entry in stored:
        store(**entry)
    ended = upgrade(*words, cases=cases)
    assert {**ended._asdict(), "tried": world.versions_tried()} == snapshot


def test_adapter_types_that_only_the_candidate_has_are_named(
    world, store, upgrade, tmp_path, monkeypatch
):
    store()
    table = tmp_path / "lib" / "python3" / "site-packages" / "peft" / "utils" / "peft_types.py"
    table.parent.mkdir(parents=True)
    table.write_text('class PeftType:\n    LORA = "LORA"\n    ZETA = "ZETA"\n    ETA = "ETA"\n')
    opened = world.opened_overlay

    @contextlib.contextmanager
    def with_files(*arguments, **options):
        with opened(*arguments, **options) as overlay:
            yield dataclasses.replace(overlay, folder=tmp_path)

    monkeypatch.setattr(upgrading, "opened_overlay", with_files)
    named = "peft 0.20.0 has new adapter types, which no case gates: ETA, ZETA"
    assert named in upgrade().flat
    table.write_text('class PeftType:\n    LORA = "LORA"\n')
    assert "adapter types" not in upgrade().out


@pytest.mark.parametrize(
    ("base", "verdict"), [("auto", "regressed"), ("run", "regressed"), ("0001", "incomparable")]
)
def test_other_inputs_are_the_work_of_a_release_unless_a_stored_entry_was_named(
    world, store, upgrade, base, verdict
):
    world.moved = inputs_of_release
    store()
    found = json.loads(upgrade("--base", base, "--format", "json").out)
    assert {case["verdict"] for case in found["cases"]} == {verdict}
    assert [finding["verdict"] for finding in found["findings"]] == [verdict]
    ended = upgrade("--base", base)
    words = "losses and scores, which depend on the inputs, could not be judged"
    assert (words in ended.flat) == (verdict == "regressed")
    assert "--metric" not in ended.out


def test_outside_a_clone_it_says_how_to_get_the_models_before_it_installs_anything(
    project, upgrade
):
    shutil.rmtree(project.folder / "baselines")
    code, _, err = upgrade()
    assert (code, "a checkout of peft_regress" in err) == (3, True)
    assert "`peft-regress init`" in err
    assert "candidate:" not in err


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_ctrl_c_while_packages_are_tried_leaves_the_comparison(
    world, store, upgrade, project, monkeypatch, *, form
):
    def interrupted(*_, **__):
        sys.stdout.write("TRIALS\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(responsible, "opened_part", interrupted)
    store()
    world.moved = WORSE
    code, out, _ = upgrade(*BOTH, "--format", form, "--summary", "issue.md")
    assert code == 130
    before, _, after = out.partition("TRIALS\n")
    finding = '"title": "forward_flops' if form == "json" else "1. regressed in 2 cases: forward"
    assert finding in (before if form == "text" else after)
    assert (out.count(finding), after.count("not tried, interrupted")) == (1, 1)
    assert "which package: not tried, interrupted" in (project.folder / "issue.md").read_text()


def test_a_version_does_not_name_the_code_of_a_package_from_a_folder(
    world, store, upgrade, monkeypatch
):
    store()
    monkeypatch.setattr(upgrading, "is_from_folder", lambda package: package == "peft")
    assert upgrade().code == 0
    assert world.versions_tried() == HERE


def test_an_accepted_run_of_a_checkout_does_not_stand_for_the_installed_release(
    world, upgrade, project
):
    run = make_run(*(world.record(OLD, name) for name in IDS), environment=OLD)
    checkout = msgspec.structs.replace(run, direct={"peft": f"sha256:{'ab' * 32}"})
    project.write({"run.json": checkout}).run("accept", "run.json", "--reason", "soon released")
    assert upgrade().code == 0
    assert world.versions_tried() == HERE


def test_a_run_file_can_be_the_base(world, upgrade, project):
    records = [world.record(OLD, name) for name in IDS]
    project.write({"base.json": make_run(*records, environment=OLD)})
    code, out, _ = upgrade("--base", "base.json")
    assert (code, "compared with: base.json" in out) == (0, True)
    assert world.versions_tried() == ALONE


@pytest.fixture
def edit(project):
    """Edit a module that an own case imports; first write the project."""
    gates = (
        "import mynet\nfrom peft_regress import FineTune\n"
        f'GATE = FineTune("{MINE}", model=print, data=print, adapter="full")\n'
    )
    table = '[tool.peft_regress]\ncases = ["gates:GATE"]\n'
    project.write({"pyproject.toml": table, "gates.py": gates})

    def write(text):
        project.write({"mynet.py": text})
        own_code._digest_of.cache_clear()

    write("")
    return write


def test_after_an_edit_of_the_users_own_code_the_base_is_measured_anew(world, store, upgrade, edit):
    store(names=[MINE])
    assert upgrade(cases="mine/*/*").code == 0
    assert world.versions_tried() == ALONE
    edit("WIDTH = 128")
    world.moved = lambda *_: {"forward_flops": 2000}
    code, out, err = upgrade(cases="mine/*/*")
    assert code == 0
    why = "the code of 1 own case was edited since 0001_peft-0.18.1"
    assert f"measuring the current environment: {why}" in err
    assert f"note: {why}\n" in out
    assert "compared with: the current environment" in out
    # With a named base the edit is not blamed on a package.
    code, out, _ = upgrade("--base", "0001", cases="mine/*/*")
    assert code == 1
    assert "which package: unknown, since the code of 1 own case was edited since 0001" in out
    assert "with the code of today: add `--base run`" in out
    assert "maintainers" not in out


def test_cases_of_the_checkout_itself_have_no_commit_as_base(world, store, upgrade, edit):
    """They would run the code of today on both sides, and so never fail."""
    store(names=[MINE])
    code, _, err = upgrade(".", "--base", "git:HEAD~1", cases="mine/*/*")
    assert (code, world.runs) == (2, [])
    assert "--base git:HEAD~1: cases that lie in the checkout run its code of today" in err


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_like_ctrl_c(upgrade, monkeypatch, name):
    def ended(_, settings, **__):
        assert settings.setup.keeper is not None
        os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(upgrade_module, "upgrade", ended)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        assert upgrade("--save", "run.json") == (130, "", "\ninterrupted\n")
    finally:
        signal.signal(signal.SIGINT, before)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize(
    ("problem", "message"),
    [
        (PipError("peft==0.20.0", "no wheel for this Python"), "no wheel for this Python"),
        (InputError("ImportError: HybridCache"), "HybridCache"),
    ],
)
def test_an_unusable_candidate_is_exit_2(world, upgrade, problem, message):
    world.broken = lambda packages: problem if packages["peft"] > Version("0.19") else None
    code, out, err = upgrade()
    assert (code, out) == (2, "")
    assert message in err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("peft==0.99.0", "no such release"),
        ("--matrix no_such", "no_such"),
        ("--jobs 0", "1<=x"),
        ("--time-limit 0", "1<=x"),
        ("--save baselines", "is a directory"),
        ("--save ", "the name is empty"),
        ("--save baselines/run.json", "--save baselines/run.json: lies in the baseline storage"),
        ("--summary baselines", "is a directory"),
        ("--summary baselines/x.md", "--summary baselines/x.md: lies in the baseline storage"),
        ("--base ", "the name is empty"),
    ],
)
def test_wrong_use_is_exit_2_before_the_work(world, upgrade, words, message):
    code, out, err = upgrade(*words.split(" "))
    assert (code, out, world.runs) == (2, "", [])
    assert message in " ".join(err.split())


def test_the_saved_run_is_one_that_other_commands_take(world, store, upgrade, project):
    store()
    world.moved = WORSE
    ended = upgrade("--save", "of mine/run.json")
    assert ended.code == 1
    assert "`peft-regress accept 'of mine/run.json' --reason" in ended.flat
    save = project.folder / "of mine" / "run.json"
    assert world.saved == [save.relative_to(project.folder)]
    run = read_run_file(save).run
    assert run.environment["peft"] == "0.20.0"
    assert run.selection.narrowed_by == [f"--cases {GLOB}"]
    assert project.run("compare", save, save).code == 3  # narrowed
    assert project.run("accept", save, "--history", "--reason", "r").code == 0
    code, out, _ = project.run("history", "--metric", "forward_flops")
    assert (code, "+100 %" in out) == (0, True)


@pytest.mark.parametrize(
    ("installed", "stored", "sides"),
    [
        ({}, {}, ["with the packages before", "with those after"]),
        # Another release of this project changes no number.
        (
            {"peft-regress": "0.2.0"},
            {"environment": {**OLD, "peft-regress": "0.1.0"}},
            ["with the packages before", "with those after"],
        ),
        ({}, BEFORE, ["with the packages installed here", "with those after"]),
    ],
)
def test_the_summary_is_an_issue_with_a_script_of_both_sides(
    world, store, upgrade, project, *, installed, stored, sides
):
    world.installed |= installed
    store(**stored)
    world.moved = WORSE
    words = ("--base", "0001", "--summary", "issue.md", "--format", "markdown")
    code, out, err = upgrade(*words)
    assert (code, world.versions_tried()) == (1, ALONE)
    assert (project.folder / "issue.md").read_text() == out
    assert "summary: issue.md" in err
    for side in sides:
        assert f"It prints, {side}:\n\n```text\nprinted\n```" in out
    assert "which package: peft, the only one that changed" in out


@pytest.mark.parametrize("is_stored", [True, False])
@pytest.mark.parametrize("is_commit", [True, False])
def test_a_case_that_repeats_the_base_trains_one_seed_in_full(
    world, store, upgrade, at_commit, project, *, is_stored, is_commit
):
    """The base comes first, since the candidate may repeat it; a commit comes last."""
    world.computes = lambda packages, name: f"{name.startswith('shift') and packages['peft']}"
    if is_stored:
        store()
    code, out, err = (at_commit if is_commit else upgrade)("--save", "run.json")
    candidate = ("0.20.0", IDS[0])
    base = [] if is_stored else [("0.18.1", name) for name in IDS]
    assert code == 0
    if is_commit:
        assert world.trained == [candidate, *base[:1]]
        # The folder for what commits measure is there by now.
        assert at_commit().code == 0
        return
    assert world.trained == [*base, candidate]
    source = "0001_peft-0.18.1" if is_stored else "the current environment"
    assert [one.repeated_run for one in read_run_file(project.folder / "run.json").run] == [
        None,
        source,
    ]
    assert f"candidate {IDS[1]} repeated" in err
    assert "no regression (2 unchanged; 1 repeats the baseline)" in out
    assert json.loads(upgrade("--format", "json").out)["repeats"] == 1


def test_what_departs_from_a_commit_is_judged_by_its_referee(world, at_commit, monkeypatch):
    world.computes = lambda packages, name: f"{name.startswith('shift') and packages['peft']}"
    referee = Referee(losses=[1.0], gradients=[], updates=[], scores={}, moved=[0.0, 0.0])
    record = world.record

    def refereed(*args, **how):
        return msgspec.structs.replace(record(*args, **how), referee=referee)

    monkeypatch.setattr(world, "record", refereed)
    code, out, _ = at_commit()
    assert world.trained == [("0.20.0", IDS[0]), ("0.18.1", IDS[0]), ("0.20.0", IDS[0])]
    assert code == 0
    assert "training of 1 case: differs from commit 0123456789ab by rounding only" in out


def test_a_base_that_repeats_an_older_entry_has_its_scores(world, store, upgrade, project):
    """It is measured again until the entry is confirmed for these packages."""
    world.computes = lambda packages, _: str(packages["peft"] >= Version("0.20.0"))
    world.moved = newer(accuracy=[0.1] * 3)
    store(**BEFORE)
    code, out, err = upgrade()
    assert (code, "accuracy" in out) == (1, True)
    assert {release for release, _ in world.trained} == {"0.20.0"}
    assert "measuring the current environment" in err
    here = [repeating(world.record(OLD, name), by="0001_peft-0.14.0") for name in IDS]
    project.write({"here.json": make_run(*here, environment=OLD)})
    assert project.run("accept", "here.json", "--reason", "the same").code == 0
    code, out, err = upgrade()
    assert (code, "accuracy" in out) == (1, True)
    assert "measuring the current environment" not in err
    assert "0001_peft-0.14.0" in out


@pytest.mark.parametrize("base", ["auto", "0001"])
def test_the_function_of_a_finding_is_searched_if_asked_for(
    world, store, upgrade, monkeypatch, base
):
    world.moved = WORSE
    store()
    asked = []

    def found(findings, references, packages, changed, environments, **_):
        asked.append((packages, changed["peft"], [one.python for one in environments]))
        return (FoundFunction(package="peft", problem="it is compiled"),) * len(findings)

    monkeypatch.setattr(upgrading, "find_functions", found)
    ended = upgrade("--function", "--base", base)
    if base != "auto":
        assert ended.code == 2
        assert "--function: --base 0001 ran elsewhere; use auto or run" in ended.err
        return
    ((packages, versions, (here, there)),) = asked
    assert packages == [("peft",)]
    assert versions == ("0.18.1", "0.20.0")
    assert str(here) == sys.executable != str(there)
    assert "1. not found in peft (it is compiled; 0 trials)" in ended.flat
    assert "which function" not in upgrade().out
