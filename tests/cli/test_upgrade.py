"""The command `upgrade`: what it compares with, what it prints and writes, how it ends."""

import contextlib
import json
import os
import shutil
import signal
import sys
from importlib.metadata import version

import msgspec
import pytest
from builders import accept, make_run, repeating, write_entry, write_run
from package_world import World, set_world
from packaging.version import Version

from peft_regress.cli import upgrade as upgrade_module
from peft_regress.errors import InputError
from peft_regress.overlay.commits import Commit
from peft_regress.overlay.pip import PipError
from peft_regress.project.budgets import Budget
from peft_regress.runs import own_code
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Failure, Inputs, TensorSummary
from peft_regress.upgrades import reproduction, responsible
from peft_regress.upgrades import upgrade as upgrading

GLOB = "*/lora-r4/resnet18"
IDS = ["shift/lora-r4/resnet18", "unseen/lora-r4/resnet18"]
OLD = {"peft": "0.18.1", "torch": "2.0", "transformers": "4.0"}
CANDIDATE = ("peft==0.20.0",)
BOTH = (*CANDIDATE, "transformers==5.0")


@pytest.fixture
def world(monkeypatch):
    index = {"peft": ["0.18.1", "0.20.0"], "transformers": ["4.0", "5.0"]}
    made = set_world(monkeypatch, World(installed=dict(OLD), index=index))
    monkeypatch.setattr(reproduction, "_output", lambda *_, **__: "printed")
    return made


def newer(**moved):
    return lambda packages, _: moved if packages["peft"] >= Version("0.20.0") else {}


@pytest.fixture
def storage(tmp_path):
    folder = tmp_path / "baselines"
    (folder / "sources").mkdir(parents=True)
    (folder / "sources" / "manifest").write_text("{}")
    return folder


def store(world, storage, *, number=1, names=IDS, environment=None, **how):
    """Store a baseline of what the installed packages measure."""
    packages = world.installed if environment is None else environment
    records = [world.record(packages, name) for name in names]
    return write_entry(storage, number, *records, environment=packages, **how)


@pytest.fixture
def upgrade(world, storage, command):
    """Call the command and return (exit code, stdout, stderr)."""

    def call(*words, cases=GLOB):
        asked = words if any("==" in word for word in words) else (*CANDIDATE, *words)
        ended = command("upgrade", *asked, "--cases", cases, "--baselines", storage)
        assert world.open_overlays == 0
        return ended

    return call


def test_outside_a_clone_it_says_how_to_get_the_models_before_it_installs_anything(
    world, storage, upgrade
):
    shutil.rmtree(storage)
    code, _, err = upgrade()
    assert code == 3
    assert "a checkout of peft_regress" in err
    assert "`peft-regress init`" in err
    assert "candidate:" not in err


def test_a_baseline_of_the_installed_packages_stands_for_them(world, storage, upgrade):
    store(world, storage)
    code, out, _ = upgrade()
    assert code == 0
    assert world.versions_tried() == ["0.20.0"]
    assert "compared with: 0001_peft-0.18.1" in out
    assert "environment: peft 0.18.1 -> 0.20.0\n" in out
    assert "nothing: no number changed" in out


def inputs_by_peft(packages, _):
    """Draw other weights with the new peft."""
    norm = 2.0 if packages["peft"] >= Version("0.20.0") else 1.0
    drawn = TensorSummary(shape=[4], dtype="float32", mean=0.0, norm=norm)
    return {"inputs": Inputs(weights={"head": drawn})}


@pytest.mark.parametrize(
    ("base", "verdict"), [("auto", "regressed"), ("run", "regressed"), ("0001", "incomparable")]
)
def test_other_inputs_are_the_work_of_a_release_unless_a_stored_entry_was_named(
    world, storage, upgrade, base, verdict
):
    world.moved = inputs_by_peft
    store(world, storage)
    _, out, _ = upgrade("--base", base, "--format", "json")
    found = json.loads(out)
    assert {case["verdict"] for case in found["cases"]} == {verdict}
    assert [finding["verdict"] for finding in found["findings"]] == [verdict]
    _, out, _ = upgrade("--base", base)
    words = "losses and scores, which depend on the inputs, could not be judged"
    assert (words in " ".join(out.split())) == (verdict == "regressed")
    assert "--metric" not in out


def test_which_package_draws_other_inputs_is_found(world, storage, upgrade):
    world.moved = inputs_by_peft
    store(world, storage)
    _, out, _ = upgrade(*BOTH)
    assert "which package:\n  1. peft alone does it; transformers alone: no\n" in out


def test_a_package_that_only_one_side_recorded_is_no_change(world, storage, upgrade):
    """A candidate that fails before it imports what its case uses."""
    store(world, storage, environment={**OLD, "lightning": "2.6.6"})
    world.moved = newer(status="error")
    for form in ("text", "json"):
        _, out, _ = upgrade("--base", "0001", "--format", form)
        assert "lightning" not in out


def test_a_package_that_an_upgrade_adds_is_named(world, storage, upgrade):
    world.index["urllib3"] = ["2.8.0"]
    world.extra[CANDIDATE[0]] = ["urllib3==2.8.0"]
    _, out, _ = upgrade()
    assert "environment: peft 0.18.1 -> 0.20.0; urllib3 2.8.0 (new)" in out


@pytest.mark.parametrize("form", ["text", "json", "markdown"])
def test_ctrl_c_while_packages_are_tried_leaves_the_comparison(
    world, storage, upgrade, monkeypatch, form
):
    def interrupted(*_, **__):
        sys.stdout.write("TRIALS\n")
        raise KeyboardInterrupt

    monkeypatch.setattr(responsible, "opened_part", interrupted)
    store(world, storage)
    world.moved = newer(forward_flops=2000)
    issue = storage.with_name("issue.md")
    code, out, _ = upgrade(*BOTH, "--format", form, "--summary", str(issue))
    assert code == 130
    before, _, after = out.partition("TRIALS\n")
    finding = '"title": "forward_flops' if form == "json" else "1. regressed in 2 cases: forward"
    assert finding in (before if form == "text" else after)
    assert (out.count(finding), after.count("not tried, interrupted")) == (1, 1)
    assert "which package: not tried, interrupted" in issue.read_text()


def test_another_release_of_this_project_changes_no_number(world, storage, upgrade):
    store(world, storage, environment={**OLD, "peft-regress": "0.1.0"})
    world.installed["peft-regress"] = "0.2.0"
    world.moved = newer(forward_flops=2000)
    _, out, _ = upgrade("--format", "markdown")
    assert world.versions_tried() == ["0.20.0"]
    assert "which package: peft, the only one that changed" in out
    assert "It prints, with the packages before:" in out


@pytest.mark.parametrize(
    "how",
    [
        {"environment": {**OLD, "torch": "1.9"}},
        {"environment": {"peft": "0.18.1", "torch": "2.0"}},
        {"names": IDS[:1]},
        {"role": "history"},
        None,
    ],
)
def test_otherwise_the_installed_packages_are_measured_too(world, storage, upgrade, how):
    if how is not None:
        store(world, storage, **how)
    code, out, err = upgrade()
    assert code == 0
    assert world.versions_tried() == ["0.18.1", "0.20.0"]
    assert "compared with: the current environment" in out
    assert "[2/2] current unseen/lora-r4/resnet18" in err


def test_a_version_does_not_name_the_code_of_a_package_from_a_folder(
    world, storage, upgrade, monkeypatch
):
    store(world, storage)
    name = "peft_regress.upgrades.upgrade.is_from_folder"
    monkeypatch.setattr(name, lambda package: package == "peft")
    assert upgrade()[0] == 0
    assert world.versions_tried() == ["0.18.1", "0.20.0"]


def test_what_only_some_cases_use_need_only_be_installed(world, storage, upgrade):
    runtime = {"pytest": version("pytest")}
    store(world, storage, environment={**OLD, **runtime})
    code, out, _ = upgrade()
    assert (code, world.versions_tried()) == (0, ["0.20.0"])
    assert "compared with: 0001_peft-0.18.1" in out
    store(world, storage, number=2, environment={**OLD, "pytest": "0.1"})
    upgrade()
    assert world.versions_tried() == ["0.20.0", "0.18.1", "0.20.0"]


def test_an_accepted_run_of_a_checkout_does_not_stand_for_the_installed_release(
    world, storage, upgrade, tmp_path
):
    run = make_run(*(world.record(OLD, name) for name in IDS), environment=OLD)
    checkout = msgspec.structs.replace(run, direct={"peft": f"sha256:{'ab' * 32}"})
    file = write_run(tmp_path / "run.json", checkout)
    accept(file, root=storage, reason="soon released", date="2026-01-01T00:00:00+00:00")
    assert upgrade()[0] == 0
    assert world.versions_tried() == ["0.18.1", "0.20.0"]


def test_a_run_of_them_can_be_asked_for(world, storage, upgrade):
    store(world, storage)
    assert upgrade("--base", "run")[0] == 0
    assert world.versions_tried() == ["0.18.1", "0.20.0"]


def test_another_entry_or_a_file_can_be_named(world, storage, upgrade, tmp_path):
    store(world, storage)
    other = {**OLD, "peft": "0.14.0"}
    store(world, storage, number=2, environment=other, role="history", title="peft-0.14.0")
    code, out, _ = upgrade("--base", "0002")
    assert code == 0
    assert "compared with: 0002_peft-0.14.0" in out
    assert "environment: peft 0.14.0 -> 0.20.0\n" in out
    file = write_run(
        tmp_path / "file.json",
        read_run_file(
            storage / next(path.relative_to(storage) for path in storage.rglob("0001*"))
        ).run,
    )
    code, out, _ = upgrade("--base", str(file))
    assert code == 0
    assert str(file) in out
    assert set(world.versions_tried()) == {"0.20.0"}


@pytest.fixture
def edit(tmp_path, monkeypatch, clean_registry):
    """Edit a module that an own case imports; first write the project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pyproject.toml").write_text('[tool.peft_regress]\ncases = ["gates:GATE"]\n')
    (tmp_path / "gates.py").write_text(
        "import mynet\nfrom peft_regress import FineTune\n"
        'GATE = FineTune("mine/full/net", model=print, data=print, adapter="full")\n'
    )

    def write(text):
        (tmp_path / "mynet.py").write_text(text)
        own_code._digest_of.cache_clear()

    write("")
    yield write
    for name in ("gates", "mynet"):
        sys.modules.pop(name, None)


def test_after_an_edit_of_the_users_own_code_the_base_is_measured_anew(
    world, storage, upgrade, edit
):
    store(world, storage, names=["mine/full/net"])
    assert upgrade(cases="mine/*/*")[0] == 0
    assert world.versions_tried() == ["0.20.0"]
    edit("WIDTH = 128")
    world.moved = lambda *_: {"forward_flops": 2000}
    code, out, err = upgrade(cases="mine/*/*")
    assert code == 0
    why = "the code of 1 own case was edited since 0001_peft-0.18.1"
    assert f"measuring the current environment: {why}" in err
    assert f"note: {why}\n" in out
    assert "compared with: the current environment" in out


def test_with_a_named_base_an_edit_is_not_blamed_on_a_package(world, storage, upgrade, edit):
    store(world, storage, names=["mine/full/net"])
    edit("WIDTH = 128")
    world.moved = lambda *_: {"forward_flops": 2000}
    code, out, _ = upgrade("--base", "0001", cases="mine/*/*")
    assert code == 1
    assert "which package: unknown, since the code of 1 own case was edited since 0001" in out
    assert "with the code of today: add `--base run`" in out
    assert "maintainers" not in out


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_a_signal_ends_it_like_ctrl_c(world, upgrade, monkeypatch, tmp_path, name):
    def ended(_, settings, **__):
        assert settings.setup.keeper is not None
        os.kill(os.getpid(), signal.Signals[name])

    monkeypatch.setattr(upgrade_module, "upgrade", ended)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        code, out, err = upgrade("--save", str(tmp_path / "run.json"))
    finally:
        signal.signal(signal.SIGINT, before)
    assert (code, out) == (130, "")
    assert err.strip() == "interrupted"
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("option", ["--save", "--summary"])
def test_nothing_is_written_into_the_storage(world, upgrade, storage, option):
    code, out, err = upgrade(option, str(storage / "run.json"))
    assert (code, out, world.runs) == (2, "", [])
    assert f"{option} {storage / 'run.json'}: lies in the baseline storage" in err


def test_cases_that_the_base_does_not_hold_are_no_pass(world, storage, upgrade):
    store(world, storage, names=IDS[:1])
    code, out, _ = upgrade("--base", "0001")
    assert code == 3
    assert "INCOMPLETE" in out
    assert "new in 1 case: no accepted baseline has it" in out
    assert "compare what was not compared: add `--base run`" in out
    assert "nothing: no number changed" not in out


def test_something_worse_is_exit_1_with_what_to_do(world, storage, upgrade):
    store(world, storage)
    world.moved = newer(forward_flops=2000)
    code, out, _ = upgrade()
    text = " ".join(out.split())
    assert code == 1
    assert text.startswith("upgrade peft==0.20.0: REGRESSED (2 regressed)")
    assert "1. regressed in 2 cases: forward_flops +100 %" in text
    assert "cases: {shift,unseen}/lora-r4/resnet18" in text
    assert "which package: peft, the only one that changed" in text
    assert "pin: stay with peft==0.18.1" in text
    assert (
        "`peft-regress bisect peft --good 0.18.1 --bad 0.20.0 --case shift/lora-r4/resnet18 "
        "--metric forward_flops`"
    ) in text
    assert "add `--save run.json` and then `peft-regress accept run.json --reason" in text
    assert max(map(len, out.splitlines())) <= 100


BETTER = "FAILED by strictness: 2 cases better than the baseline, not accepted"


@pytest.mark.parametrize("strict", [False, True])
def test_something_better_passes_unless_it_is_strict(world, storage, upgrade, strict):
    store(world, storage)
    assert upgrade(*["--strict"] * strict)[0] == 0
    world.moved = newer(forward_flops=500)
    code, out, _ = upgrade(*["--strict"] * strict)
    assert code == int(strict)
    assert (BETTER in out) == strict
    assert "it got better" in out


def test_a_case_that_the_candidate_crashes_in_is_exit_1(world, storage, upgrade):
    store(world, storage)
    failure = Failure(type="WorkerLost", message="its worker was killed by SIGSEGV")
    world.moved = newer(status="error", error=failure)
    code, out, err = upgrade()
    assert code == 1
    assert "newly failing in 2 cases: ok -> error (WorkerLost" in out
    assert "--metric status" in out
    assert "[1/2] candidate shift/lora-r4/resnet18 error (WorkerLost" in err


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
        (("peft==0.99.0",), "no such release"),
        (("--matrix", "no_such"), "no_such"),
        (("--jobs", "0"), "1<=x"),
        (("--time-limit", "0"), "1<=x"),
        (("--save", "tests"), "is a directory"),
        (("--save", ""), "the name is empty"),
        (("--summary", "tests"), "is a directory"),
        (("--base", ""), "the name is empty"),
    ],
)
def test_wrong_use_is_exit_2_before_the_work(world, upgrade, words, message):
    code, out, err = upgrade(*words)
    assert (code, out, world.runs) == (2, "", [])
    assert message in " ".join(err.split())


def test_no_requirement_is_exit_2(command):
    code, _, err = command("upgrade")
    assert (code, "name a requirement" in err) == (2, True)


def test_torch_is_not_replaced_unasked(world, upgrade):
    world.replaces_torch = True
    code, _, err = upgrade()
    assert (code, world.runs) == (2, [])
    assert "Add --yes" in err
    assert upgrade("--yes")[0] == 0


def test_each_of_two_requirements_is_tried_alone(world, storage, upgrade):
    store(world, storage)
    world.moved = lambda packages, _: (
        {"forward_flops": 2000} if packages["transformers"] >= Version("5.0") else {}
    )
    sentence = "transformers alone does it; peft alone: no"
    code, out, err = upgrade(*BOTH)
    assert code == 1
    assert f"which package: 1. {sentence}" in " ".join(out.split())
    assert "trying peft 0.20.0 alone" in err
    code, out, _ = upgrade(*BOTH, "--format", "json")
    (finding,) = json.loads(out)["findings"]
    assert finding["which_package"] == sentence


def test_the_saved_run_is_one_that_other_commands_take(world, storage, upgrade, tmp_path, command):
    store(world, storage)
    world.moved = newer(forward_flops=2000)
    save = tmp_path / "of mine" / "run.json"
    code, out, _ = upgrade("--save", str(save))
    assert code == 1
    assert f"`peft-regress accept '{save}' --reason" in " ".join(out.split())
    assert world.saved == [save]
    run = read_run_file(save).run
    assert run.environment["peft"] == "0.20.0"
    assert run.selection.narrowed_by == [f"--cases {GLOB}"]
    for words, ended in (
        (["compare", str(save), str(save)], 3),  # narrowed
        (["accept", str(save), "--history", "--reason", "r", "--baselines", str(storage)], 0),
        (["history", "--baselines", str(storage), "--metric", "forward_flops"], 0),
    ):
        code, out, err = command(*words)
        assert code == ended, err
    assert "+100 %" in out


def test_json_has_every_case_with_its_reasons(world, storage, upgrade):
    store(world, storage)
    world.moved = lambda packages, name: (
        {"forward_flops": 2000, "invariants": {"frozen_unchanged": False}}
        if packages["peft"] >= Version("0.20.0") and name == IDS[0]
        else {}
    )
    code, out, _ = upgrade("--format", "json")
    printed = json.loads(out)
    assert code == printed["exit_code"] == 1
    assert (printed["schema_version"], printed["requirements"]) == (1, [*CANDIDATE])
    assert printed["environment"] == [{"package": "peft", "old": "0.18.1", "new": "0.20.0"}]
    assert printed["counts"] == {"regressed": 1, "unchanged": 1}
    moved, same = printed["cases"]
    assert (moved["id"], moved["verdict"]) == (IDS[0], "regressed")
    assert [reason["metric"] for reason in moved["reasons"]] == [
        "invariant frozen_unchanged",
        "forward_flops",
    ]
    assert moved["reasons"][1]["relative_change"] == 1
    assert (same["verdict"], same["reasons"]) == ("unchanged", [])
    assert {one["kind"] for one in printed["findings"]} == {"costs", "invariant"}
    assert any("peft-regress bisect" in line for line in printed["what_to_do"])


def test_the_summary_is_an_issue_with_a_script_of_both_sides(world, storage, upgrade, tmp_path):
    store(world, storage)
    world.moved = newer(forward_flops=2000)
    summary = tmp_path / "issue.md"
    code, out, err = upgrade("--summary", str(summary), "--format", "markdown")
    assert code == 1
    assert summary.read_text() == out
    assert f"summary: {summary}" in err
    assert "It prints, with the packages before:\n\n```text\nprinted\n```" in out
    assert "It prints, with those after:" in out
    assert "environment: peft 0.18.1 -" in out


def test_a_script_runs_with_the_packages_installed_here_if_the_base_had_others(
    world, storage, upgrade
):
    store(world, storage, environment={**OLD, "peft": "0.14.0"}, title="peft-0.14.0")
    world.moved = newer(forward_flops=2000)
    _, out, _ = upgrade("--base", "0001", "--format", "markdown")
    assert "It prints, with the packages installed here:" in out


@pytest.mark.parametrize("is_stored", [True, False])
def test_a_case_that_repeats_the_base_trains_one_seed_in_full(
    world, storage, upgrade, tmp_path, is_stored
):
    world.computes = lambda packages, name: f"{name.startswith('shift') and packages['peft']}"
    if is_stored:
        store(world, storage)
    save = tmp_path / "run.json"
    code, out, err = upgrade("--save", str(save))
    assert code == 0
    # The base comes first, since the candidate may repeat it.
    base = [] if is_stored else [("0.18.1", name) for name in IDS]
    assert world.trained == [*base, ("0.20.0", IDS[0])]
    source = "0001_peft-0.18.1" if is_stored else "the current environment"
    assert [one.repeated_run for one in read_run_file(save).run] == [None, source]
    assert f"candidate {IDS[1]} repeated" in err
    assert "no regression (2 unchanged; 1 repeats the baseline)" in out
    assert json.loads(upgrade("--format", "json")[1])["repeats"] == 1


def test_a_base_that_repeats_an_older_entry_has_its_scores(world, storage, upgrade, tmp_path):
    """It is measured again until the entry is confirmed for these packages."""
    world.computes = lambda packages, _: str(packages["peft"] >= Version("0.20.0"))
    world.moved = newer(accuracy=[0.1] * 3)
    store(world, storage, environment={**OLD, "peft": "0.14.0"}, title="peft-0.14.0")
    code, out, err = upgrade()
    assert (code, "accuracy" in out) == (1, True)
    assert {version for version, _ in world.trained} == {"0.20.0"}
    assert "measuring the current environment" in err
    here = [repeating(world.record(OLD, name), by="0001_peft-0.14.0") for name in IDS]
    run = write_run(tmp_path / "here.json", make_run(*here, environment=OLD))
    accept(run, root=storage, reason="the same", date="2026-01-02T00:00:00+00:00")
    code, out, err = upgrade()
    assert (code, "accuracy" in out) == (1, True)
    assert "measuring the current environment" not in err
    assert "0001_peft-0.14.0" in out


def test_a_narrowed_upgrade_judges_shares_by_what_is_stored_of_the_other_case(
    world, storage, upgrade
):
    share = Budget(of="shift/full/resnet18", peak_of=0.9)
    world.moved = lambda packages, name: (
        {"budget": share} if "/lora-r4/" in name and packages["peft"] < Version("0.20.0") else {}
    )
    store(world, storage, names=["shift/full/resnet18", IDS[0]])
    code, out, _ = upgrade(cases=IDS[0])
    assert code == 1
    assert "over budget in 1 case: budget peak_of shift/full/resnet18" in out
    assert "not judged" not in out


TITLE = "commit 0123456789ab, the merge base with origin/main"
OLDER = {"environment": {**OLD, "peft": "0.14.0"}, "title": "peft-0.14.0"}


@pytest.fixture
def at_commit(world, upgrade, monkeypatch, tmp_path):
    """Call the command with a commit as base, which is release 0.18.1 or another one."""
    monkeypatch.setenv("PEFT_REGRESS_CACHE", str(tmp_path / "cache"))
    world.computes = lambda packages, _: str(packages["peft"] >= Version("0.20.0"))

    def call(*words, release="0.18.1"):
        @contextlib.contextmanager
        def earlier_checkouts(requirements, base):
            assert ([*requirements], base) == ([*CANDIDATE], "merge-base")
            yield Commit([f"peft=={release}"], "0123456789abcdef", TITLE)

        monkeypatch.setattr(upgrading, "earlier_checkouts", earlier_checkouts)
        return upgrade("--base", "merge-base", *words)

    return call


def test_with_a_commit_as_base_what_it_did_already_is_no_finding(world, storage, at_commit):
    store(world, storage, **OLDER)
    world.moved = lambda packages, _: (
        {"forward_flops": 2000} if packages["peft"] >= Version("0.18.1") else {}
    )
    code, out, err = at_commit()
    assert code == 0
    assert f"compared with: {TITLE}\n" in out
    since = "since 0001_peft-0.14.0, not by this change: regressed in 2 cases: forward_flops +100 %"
    assert since in out
    assert f"measuring the base: {TITLE}" in err
    assert "nothing: the change makes nothing worse" in out
    found = json.loads(at_commit("--format", "json")[1])
    assert [one["cases"] for one in found["since_baseline"]] == [IDS]
    world.moved = newer(forward_flops=3000)
    code, out, _ = at_commit()
    assert code == 1
    assert "1. regressed in 2 cases: forward_flops +200 %" in out
    assert "what the change is: `git diff 0123456789ab`" in out
    assert "not by this change" not in out
    assert "accept" not in out


@pytest.mark.parametrize("is_stored", [True, False])
def test_the_base_trains_one_seed_unless_the_candidate_departs_from_it(
    world, storage, at_commit, is_stored
):
    world.computes = lambda packages, name: f"{name.startswith('shift') and packages['peft']}"
    if is_stored:
        store(world, storage)
    assert at_commit()[0] == 0
    base = [] if is_stored else [("0.18.1", IDS[0])]
    assert world.trained == [("0.20.0", IDS[0]), *base]


@pytest.mark.parametrize("words", [(), ("--strict",)])
def test_a_commit_that_is_better_passes_since_nobody_accepts_it(world, at_commit, words):
    world.moved = newer(forward_flops=500)
    code, out, _ = at_commit(*words)
    assert (code, "improved in 2 cases: forward_flops -50 %" in out) == (0, True)


def test_a_change_of_nothing_that_is_installed_is_measured_once(world, at_commit):
    code, out, err = at_commit(release="0.20.0")
    assert code == 0
    assert "the candidate installs the same files, so it is not measured again" in err
    assert world.versions_tried() == ["0.20.0"]
    assert "no regression (2 unchanged" in out


def test_a_budget_that_the_commit_exceeds_already_fails_no_change(world, storage, at_commit):
    world.moved = lambda packages, _: (
        {"budget": Budget(peak=10)} if packages["peft"] == Version("0.14.0") else {}
    )
    store(world, storage, **OLDER)
    code, out, _ = at_commit()
    assert code == 0
    assert "not by this change: over budget in 2 cases" in out


def test_cases_of_the_checkout_itself_have_no_commit_as_base(world, storage, upgrade, edit):
    """They would run the code of today on both sides, and so never fail."""
    store(world, storage, names=["mine/full/net"])
    code, _, err = upgrade(".", "--base", "git:HEAD~1", cases="mine/*/*")
    assert code == 2
    assert "--base git:HEAD~1: cases that lie in the checkout run its code of today" in err
    assert world.runs == []
