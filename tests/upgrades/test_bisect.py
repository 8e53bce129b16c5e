"""The release that changes a case is found in a world of known releases."""

import json
import math
from unittest.mock import Mock

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace
from package_world import SETUP, World, drawn, set_world, since
from packaging.version import Version

from peft_regress.errors import AbsentError, InputError, UnknownNameError
from peft_regress.gate.policy import DEFAULT_POLICY
from peft_regress.mixing.mixture import Unit
from peft_regress.overlay.overlay import ReplacesTorchError
from peft_regress.overlay.pip import PipError
from peft_regress.project.budgets import Budget
from peft_regress.project.script import Script
from peft_regress.upgrades import bisect as bisecting
from peft_regress.upgrades import reproduction, responsible
from peft_regress.upgrades.bisect import BisectSettings, bisect, find_boundary, releases_between
from peft_regress.upgrades.functions import FoundFunction

RELEASES = [f"0.{minor}.0" for minor in range(10, 41)]
CASE = "shift/dora-r4/resnet18"
GOOD, BAD = RELEASES[0], RELEASES[-1]


@pytest.fixture
def world(monkeypatch):
    return set_world(
        monkeypatch,
        World(installed={"peft": "0.40.0", "torch": "2.0"}, index={"peft": [*RELEASES]}),
    )


def found(**settings):
    usual = {"package": "peft", "good": GOOD, "bad": BAD, "case": CASE, "setup": SETUP}
    return bisect(BisectSettings(**{**usual, **settings}))


@pytest.fixture
def searched(world, command, monkeypatch):
    monkeypatch.setattr(reproduction, "_output", lambda *_, **__: "1 ``` 2")

    def call(*options, case=CASE):
        ends = ("--good", GOOD, "--bad", BAD)
        return command("bisect", "peft", *ends, "--case", case, *options)

    return call


def boundaries(bisection):
    return [(str(one.old), str(one.new)) for one in bisection.transitions]


@pytest.mark.parametrize("first", [RELEASES[at] for at in (1, 2, 15, 16, -2, -1)])
def test_the_first_release_that_changes_is_found_with_few_runs(world, first):
    world.index["transformers"] = ["4.0"]
    world.moved = since(first, forward_flops=2000)
    result = found(also_install=("transformers==4.0",))
    (boundary,) = boundaries(result)
    assert boundary == (RELEASES[RELEASES.index(first) - 1], first)
    # Both ends and five of the 29 releases between them, each once.
    assert len(world.runs) <= 7
    assert len(set(world.versions_tried())) == len(world.runs)
    assert {packages["transformers"] for packages, _, _ in world.runs} == {"4.0"}
    assert not result.trained
    (finding,) = result.transitions[0].comparison.findings
    assert finding.cause.what == "forward_flops"
    assert world.open_overlays == 0


def test_cases_train_only_if_the_costs_are_the_same(world):
    world.moved = since("0.21.0", first_losses=[[2.3, 2.2, 2.1, 2.0]] * 2 + [[9.0, 2.2, 2.1, 2.0]])
    for metric in ("forward_flops", "peak_bytes"):
        assert found(metric=metric).transitions == ()
    assert {trains for _, _, trains in world.runs} == {False}, "a cost never trains"
    world.runs.clear()
    result = found()
    assert boundaries(result) == [("0.20.0", "0.21.0")]
    assert result.trained
    costs = [packages["peft"] for packages, _, trains in world.runs if not trains]
    assert costs == [GOOD, BAD]


@pytest.mark.parametrize(
    ("metric", "moves"),
    [
        ("accuracy", {"accuracy": [0.2] * 3, "forward_flops": 2000}),
        ("frozen_unchanged", {"invariants": {"frozen_unchanged": False}}),
        ("status", {"status": "error"}),
        ("status", {"fails_in_training": True}),
        (None, {"fails_in_training": True}),
        ("backward_flops", {"backward_flops": 4000}),
    ],
)
def test_a_metric_an_invariant_or_a_state_is_found_among_others_that_change(world, metric, moves):
    other, late = since("0.15.0", peak_bytes=2 * 10**6), since("0.30.0", **moves)
    if metric is None:
        other = late
    world.moved = lambda packages, name: {**other(packages, name), **late(packages, name)}
    assert boundaries(found(metric=metric)) == [("0.29.0", "0.30.0")]
    # Costs come first only where they may show it.
    assert all(trains for _, _, trains in world.runs) == (
        metric in {"accuracy", "frozen_unchanged"}
    )


def test_cases_that_fail_at_both_ends_are_not_called_the_same(world):
    world.moved = lambda *_: {"status": "error"}
    with pytest.raises(AbsentError, match=r"no case runs in either release \(.+: .+\); --with"):
        found()


def test_a_script_runs_once_a_release(world, monkeypatch):
    script = Script(CASE, "train.py")
    monkeypatch.setattr(SETUP.project, "cases", lambda: {CASE: script})
    result = found()
    assert [trains for _, _, trains in world.runs] == [True, True]
    assert result.trained


def test_findings_with_boundaries_of_their_own_are_transitions_of_their_own(world):
    early, late = Version("0.15.0"), Version("0.30.0")
    other = "shift/lora-r4/resnet18"

    def moved(packages, name):
        if name == CASE:
            return {"forward_flops": 2000} if packages["peft"] >= early else {}
        return {"trainable_params": 20 if packages["peft"] >= late else 10}

    world.moved = moved
    result = found(case="shift/?o*-r4/resnet18")
    assert boundaries(result) == [("0.14.0", "0.15.0"), ("0.29.0", "0.30.0")]
    assert [one.comparison.findings[0].cases for one in result.transitions] == [(CASE,), (other,)]


def test_a_finding_is_searched_for_by_its_cheapest_case(world):
    def moved(packages, name):
        # The last one by id.
        small = "shufflenet" in name
        more = 2 if packages["peft"] >= Version("0.21.0") else 1
        return {"forward_flops": more * (10 if small else 1000)}

    world.moved = moved
    result = found(case="shift/dora-r4/*")
    assert len(result.transitions) == 1
    assert "shufflenet" in result.transitions[0].comparison.findings[0].cases[0]
    assert {len(cases) for _, cases, _ in world.runs[2:]} == {1}


def test_small_changes_that_add_up_are_shown_against_the_first_release(world):
    step = int(0.6 * DEFAULT_POLICY.bytes_bound * 10**9)
    world.moved = lambda packages, _: {"peak_bytes": 10**9 + step * (packages["peft"].minor - 10)}
    result = found(metric="peak_bytes")
    assert boundaries(result) == [("0.11.0", "0.12.0")]
    (finding,) = result.transitions[0].comparison.findings
    (reason,) = finding.example.reasons
    assert (reason.old, reason.new) == (10**9, 10**9 + 2 * step)


def test_without_a_case_one_of_each_method_and_architecture_is_taken(world):
    world.moved = since("0.21.0", forward_flops=2000)
    result = found(case=None)
    parts = [name.split("/") for name in result.cases]
    assert {task for task, _, _ in parts} == {"shift"}
    pairs = [(method.rpartition("-r")[0] or method, where) for _, method, where in parts]
    assert len(pairs) == len(set(pairs))
    assert boundaries(result) == [("0.20.0", "0.21.0")]


UNUSABLE = {
    "0.24.0": InputError("ImportError: HybridCache"),
    "0.25.0": PipError("peft==0.25.0", "no wheel for this Python"),
    "0.26.0": ReplacesTorchError("peft==0.26.0", "2.0", "1.9"),
}


def test_releases_that_cannot_be_tried_are_skipped_and_listed(world, searched, snapshot):
    """They do not install, import or leave torch as it is, or were yanked."""
    world.moved = since("0.25.0", forward_flops=2000)
    world.broken = lambda packages: UNUSABLE.get(str(packages["peft"]))
    world.yanked = {"peft==0.23.0"}
    assert searched() == snapshot
    assert found().transitions[0].between == tuple(map(Version, ["0.23.0", *UNUSABLE]))


@pytest.mark.parametrize("end", [GOOD, BAD])
def test_an_end_that_cannot_be_measured_is_an_error_with_the_reason(world, end):
    world.broken = lambda packages: (
        InputError("ImportError: HybridCache") if packages["peft"] == Version(end) else None
    )
    with pytest.raises(InputError, match=rf"peft {end} cannot be measured: .*HybridCache"):
        found()


def test_a_release_whose_cases_were_lost_is_skipped(world, monkeypatch):
    world.moved = since("0.25.0", forward_flops=2000)
    measure = world.measure_cases

    def losing(cases, **settings):
        run = measure(cases, **settings)
        return replace(run, cases={}) if run.environment["peft"] == "0.25.0" else run

    monkeypatch.setattr("peft_regress.upgrades.bisect.measure_cases", losing)
    why = f"1 case lost with the nodes that measured: {CASE}"
    assert list(found().skipped.values()) == [why]


@pytest.fixture
def pair(world):
    """From 0.21.0 on peft needs the newer of two releases of transformers."""
    world.installed = {"peft": "0.40.0", "torch": "2.0", "transformers": "5.0"}
    world.index["transformers"] = ["4.0", "5.0"]
    for release in RELEASES:
        other = "5.0" if Version(release) >= Version("0.21.0") else "4.0"
        world.extra[f"peft=={release}"] = [f"transformers=={other}"]
    return world


def test_packages_that_changed_together_are_tried_alone(pair, searched, snapshot):
    pair.moved = lambda packages, _: {"forward_flops": 1000 * (packages["transformers"].major - 3)}
    assert searched() == snapshot


def test_ctrl_c_while_packages_are_tried_leaves_the_release(pair, searched, monkeypatch, snapshot):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(responsible, "opened_part", interrupted)
    pair.moved = since("0.21.0", forward_flops=2000)
    assert searched() == snapshot


@pytest.mark.parametrize(
    ("settings", "error", "message"),
    [
        ({"bad": GOOD}, InputError, "both 0.10.0"),
        ({"bad": "0.10"}, InputError, "nothing between them"),
        ({"good": "newest"}, InputError, "'newest' is not a version"),
        (
            {"good": "0.10.7"},
            AbsentError,
            r"no peft 0\.10\.7 for this Python, or it was yanked; near it: 0\.10\.0",
        ),
        ({"package": "pfet"}, InputError, "no such package"),
        ({"metric": "forward_flop"}, UnknownNameError, "Did you mean 'forward_flops'"),
        ({"metric": "projection_flops"}, AbsentError, "no case has it"),
        ({"case": "shift/dora-r4/resnet81"}, UnknownNameError, "Did you mean 'resnet18'"),
        ({"case": "shift/dora"}, InputError, "is not a case id"),
        ({"case": "nothing*"}, InputError, r"nothing\*"),
        ({"matrix": "no_such", "case": None}, InputError, "no_such"),
    ],
)
def test_wrong_settings_are_refused(world, settings, error, message):
    with pytest.raises(error, match=message):
        found(**settings)


BOUNDARY = since("0.21.0", forward_flops=2000)


@pytest.mark.parametrize("form", ["text", "json"])
@pytest.mark.parametrize(
    "moved",
    [BOUNDARY, lambda *_: {}, lambda packages, _: drawn(1 + (packages["peft"].minor > 20))],
    ids=["a boundary", "none", "other inputs"],
)
def test_what_a_search_says(world, searched, snapshot, moved, form):
    world.moved = moved
    assert searched("--format", form) == snapshot


def test_what_every_release_exceeds_is_no_change_and_good_may_be_newer_than_bad(world):
    world.moved = lambda *given: {"budget": Budget(peak=1), **BOUNDARY(*given)}
    assert boundaries(found()) == [("0.20.0", "0.21.0")]
    result = found(good=BAD, bad=GOOD)
    assert boundaries(result) == [("0.21.0", "0.20.0")]
    assert result.transitions[0].comparison.findings[0].verdict == "improved"


def test_the_summary_is_an_issue_with_a_script(world, searched, tmp_path):
    world.moved = BOUNDARY
    summary = tmp_path / "issue.md"
    code, out, _ = searched("--summary", str(summary), "--format", "markdown")
    assert code == 0
    assert summary.read_text() == out
    assert out.startswith("## peft 0.21.0 is the first release")
    assert "```python\n" in out
    assert "````text\n1 ``` 2\n````" in out
    assert world.open_overlays == 0


FINAL = ["0.9.0", "0.10.0", "0.10.1", "1.0"]
WITH_PRE = ["0.9.0", "0.10.0rc1", "0.10.0", "0.10.1", "1.0.dev2", "1.0"]


@pytest.mark.parametrize(
    ("good", "bad", "releases"),
    [
        ("0.9.0", "0.10.1", "0.9.0 0.10.0 0.10.1"),
        ("0.10.1", "0.9.0", "0.10.1 0.10.0 0.9.0"),
        (" v0.10 ", "1", "0.10.0 0.10.1 1.0"),
        # A pre-release is included as an end.
        ("0.10.0rc1", "1.0", "0.10.0rc1 0.10.0 0.10.1 1.0"),
    ],
)
def test_releases_are_ordered_from_the_good_one_to_the_bad_one(monkeypatch, good, bad, releases):
    def released(package, pip):
        return [Version(text) for text in (WITH_PRE if pip.pre else FINAL)]

    monkeypatch.setattr(bisecting, "released_versions", released)
    settings = BisectSettings(package="candy", good=good, bad=bad, setup=SETUP)
    assert " ".join(map(str, releases_between(settings))) == releases


def check(count, first_changed, untriable):
    """Search a sequence that changes at one index, and check all promises of `find_boundary`."""
    tried = []

    def changed(index):
        assert 0 < index < count - 1, "an end is known"
        tried.append(index)
        return None if index in untriable else index >= first_changed

    low, high = find_boundary(count, changed)
    assert low < first_changed <= high
    assert set(range(low + 1, high)) <= untriable
    assert not {low, high} & untriable
    assert len(tried) == len(set(tried))
    met = len(untriable.intersection(tried))
    # The neighbour of a release that cannot be tested is not quite the middle.
    assert len(tried) <= math.ceil(math.log2(count if met else count - 1)) + met


@given(data=st.data(), count=st.integers(2, 300))
def test_long_sequences(data, count):
    first_changed = data.draw(st.integers(1, count - 1))
    inner = st.integers(1, count - 2) if count > 2 else st.nothing()
    check(count, first_changed, data.draw(st.frozensets(inner)))


LINE = FoundFunction(
    package="peft",
    units=(Unit("peft/tuners/lora/dora.py", "Layer.forward"),),
    is_confirmed=True,
    places=(
        "peft/tuners/lora/dora.py, Layer.forward (0.21.0: lines 1 to 2, 0.20.0: lines 1 to 3)",
    ),
    diff="".join(f"-{at}\n" for at in range(50)),
    trials=7,
)


@pytest.mark.parametrize("command_line", [(), ("--no-function",)])
def test_the_function_of_each_finding_is_searched_and_shown(
    searched, world, monkeypatch, command_line
):
    world.moved = since("0.21.0", forward_flops=2000)
    asked = []

    def found(findings, references, packages, changed, environments, **_):
        asked.append((len(findings), [*references], packages, changed, environments))
        return (LINE,) * len(findings)

    monkeypatch.setattr(bisecting, "find_functions", found)
    _, out, _ = searched(*command_line)
    _, answer, _ = searched(*command_line, "--format", "json")
    (finding,) = json.loads(answer)["transitions"][0]["findings"]
    if command_line:
        assert (asked, finding["which_function"]) == ([], None)
        return
    ((count, cases, packages, changed, environments), _) = asked
    assert (count, cases, packages) == (1, [CASE], [("peft",)])
    assert changed == {"peft": ("0.20.0", "0.21.0")}
    assert len({one.python for one in environments}) == 2
    assert "which function: peft/tuners/lora/dora.py, Layer.forward (0.21.0: lines 1 to 2" in out
    assert "this is it: the old code mends the new release" in " ".join(out.split())
    assert "-39\n" in out
    assert "... and 10 more lines, in the output as JSON" in out
    assert finding["which_function"]["units"] == [
        {"file": "peft/tuners/lora/dora.py", "name": "Layer.forward"}
    ]
    assert finding["which_function"]["diff"] == LINE.diff


def test_the_function_is_searched_in_a_package_that_cannot_be_tried_alone(
    pair, searched, monkeypatch
):
    pair.moved = since("0.21.0", forward_flops=2000)
    pair.broken = lambda packages: (
        (packages["peft"].minor > 20 and packages["transformers"].major < 5 and InputError("gone"))
        or None
    )
    search = Mock(return_value=())
    monkeypatch.setattr(bisecting, "find_functions", search)
    searched()
    assert search.call_args.args[2] == [("peft",)]
