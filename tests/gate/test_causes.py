"""Changes in many cases, grouped by their cause."""

import random

import pytest
from builders import VALUES, forward_ledger, make_record, observe_all
from hypothesis import strategies as st
from strategies import IDS, fuzz, observations

from peft_regress.gate.findings import find_causes
from peft_regress.gate.judge import judge_case
from peft_regress.gate.verdicts import FAILING, UNACCEPTED
from peft_regress.runs.schema import Failure, Ledger, ModuleCosts

CONVOLUTION = "aten.convolution"
DORA = [
    f"{task}/dora-r{rank}/{architecture}"
    for task in ("shift", "unseen")
    for rank in (4, 16)
    for architecture in ("mobilenet_v2", "resnet18")
]


def found(old, new):
    before, after = observe_all(old), observe_all(new)
    names = sorted(before.keys() | after.keys())
    verdicts = [judge_case(name, before.get(name), after.get(name)) for name in names]
    return find_causes(verdicts, before, after)


def dora(name, *, runs, **values):
    """Return a record in which each layer runs its base convolution `runs` times in `forward`."""
    rank = int(name.split("/")[1].rpartition("r")[2])
    layers = {"resnet18": 20, "mobilenet_v2": 52}[name.rpartition("/")[2]]
    rows = {}
    for layer in range(layers):
        rows[f"l{layer}"] = {"aten.mul": 8}
        rows[f"l{layer}.base_layer"] = {CONVOLUTION: runs * 1000 * (layer + 1)}
        rows[f"l{layer}.lora_A.default"] = {CONVOLUTION: rank}
    flops = sum(sum(costs.values()) for costs in rows.values())
    metrics = {"forward_flops": flops, "trainable_params": 10 * rank, **values}
    return make_record(name, metrics, ledger=forward_ledger(rows))


def valued(name, **values):
    return make_record(name, {**VALUES, **values})


def test_the_same_change_of_costs_in_every_layer_is_one_finding():
    old = [dora(name, runs=1) for name in DORA]
    (finding,) = found(old, [dora(name, runs=2) for name in DORA])
    cause = finding.cause
    assert (finding.verdict, finding.cases) == ("regressed", tuple(sorted(DORA)))
    assert (cause.strand, cause.what, cause.base_runs) == ("costs", "forward_flops", 1)
    assert cause.where == ("base_layer", "convolution")
    assert (finding.is_failing, finding.is_better) == (True, False)
    low, high = finding.ranges()["forward_flops"]
    assert 0.9 < low <= high < 1
    assert finding.example.size == high


def test_a_change_elsewhere_in_the_layers_is_another_finding():
    old = [dora(name, runs=1) for name in DORA]
    new = [dora(name, runs=2 if "resnet" in name else 1) for name in DORA]
    other = "shift/dora-r4/mobilenet_v2"
    at = DORA.index(other)
    part = {"l3.lora_B.default": ModuleCosts(forward_flops={CONVOLUTION: 77})}
    new[at] = make_record(
        other,
        {"forward_flops": new[at].metrics["forward_flops"].value + 77, "trainable_params": 40},
        ledger=Ledger(modules={**new[at].ledger.modules, **part}),
    )
    wide, narrow = found(old, new)
    assert len(wide.members) == 4
    assert narrow.cases == (other,)
    assert narrow.cause.where == ("lora_B.default", "convolution")


def test_parameters_lead_what_follows_from_them():
    old, new = dora(DORA[0], runs=1), dora(DORA[0], runs=2, trainable_params=80)
    (finding,) = found([old], [new])
    assert finding.cause.what == "trainable_params"
    assert set(finding.ranges()) == {"trainable_params", "forward_flops"}


@pytest.mark.parametrize(
    ("moved", "what"),
    [
        ({"peak_bytes": 10**9, "aten_ops": 1000}, "peak_bytes"),
        ({"peak_bytes_b32": 10**10}, "peak_bytes"),
        ({"backward_flops": 1000}, "backward_flops"),
        ({"accuracy": [0.5] * 3}, "quality"),
    ],
)
def test_costs_without_a_ledger_and_scores_are_grouped_by_method(moved, what):
    names = ("shift/lora-r4/resnet18", "shift/loha-r4/resnet18")
    both = found([valued(name) for name in names], [valued(name, **moved) for name in names])
    strand = "quality" if what == "quality" else "costs"
    causes = [(one.cause.strand, one.cause.what, one.cause.where) for one in both]
    assert sorted(causes) == [(strand, what, ("loha",)), (strand, what, ("lora",))]


def test_a_state_an_invariant_and_a_function_are_findings_of_their_own():
    names = DORA[:3]
    facts = {"frozen_unchanged": True, "merge_equals_unmerged": True}
    old = [make_record(name, invariants=facts) for name in names]
    moved = {**VALUES, "first_losses": [[2.3, 9, 9, 9]] * 3, "accuracy": [0.1] * 3}
    new = [
        make_record(names[0], status="error"),
        *(make_record(name, moved, invariants=dict.fromkeys(facts, False)) for name in names[1:]),
    ]
    findings = found(old, new)
    assert [(one.cause.strand, one.cause.what, len(one.members)) for one in findings] == [
        ("status", "error", 1),
        ("invariant", "frozen_unchanged", 2),
        ("invariant", "merge_equals_unmerged", 2),
        ("function", "function", 2),
    ]
    # If the function changed, accuracy follows.
    assert {reason.name for reason in findings[3].example.reasons} == {"first_losses", "accuracy"}


def test_what_is_false_in_a_new_case_and_mended_in_another_are_two_findings():
    false, true = ({"paths_agree": one} for one in (False, True))
    findings = found(
        [make_record(DORA[0], invariants=false)],
        [make_record(DORA[0], invariants=true), make_record(DORA[1], invariants=false)],
    )
    states = {one.verdict: one.cases for one in findings if one.cause.what == "paths_agree"}
    assert states == {"fixed": (DORA[0],), "new": (DORA[1],)}


MESSAGE = "layer1.0.conv 'l1' wants 1 channels of \"x1\""


def failed(name, message, *, kind="ValueError", status="error"):
    return make_record(name, status=status, error=Failure(type=kind, message=message))


@pytest.mark.parametrize(
    ("other", "count"),
    [
        ({"message": "layer2.0.conv 'l2' wants 2 channels of \"x2\""}, 1),
        ({"message": "the rank is zero"}, 2),
        ({"message": MESSAGE, "kind": "KeyError"}, 2),
        ({"message": MESSAGE, "status": "unsupported"}, 2),
    ],
)
def test_errors_that_differ_only_in_names_and_numbers_are_one_finding(other, count):
    old = [make_record(name) for name in DORA[:2]]
    findings = found(old, [failed(DORA[0], MESSAGE), failed(DORA[1], **other)])
    assert len(findings) == count
    assert findings[0].verdict == "newly_failing"


def test_a_fixed_status_is_grouped_by_its_former_error():
    old = [failed(DORA[0], "a"), failed(DORA[1], "b"), failed(DORA[2], "a")]
    findings = found(old, [make_record(name) for name in DORA[:3]])
    assert [len(one.members) for one in findings] == [2, 1]
    assert all(one.is_better and one.cause.what == "ok" for one in findings)


def test_cases_that_cannot_be_compared_are_coverage():
    old = [make_record(DORA[0]), make_record(DORA[1]), valued(DORA[2])]
    new = [
        make_record(DORA[1], definition="sha256:another"),
        valued(DORA[2], accuracy=[0.9] * 5),
        make_record(DORA[3]),
    ]
    findings = found(old, new)
    assert {(one.cause.what, one.verdict, one.cases) for one in findings} == {
        ("missing", "missing", (DORA[0],)),
        ("definition", "incomparable", (DORA[1],)),
        ("accuracy.samples", "incomparable", (DORA[2],)),
        ("new", "new", (DORA[3],)),
    }
    assert {one.cause.strand for one in findings} == {"coverage"}
    assert not any(one.is_failing or one.is_better for one in findings)


def test_the_gravest_findings_come_first_then_what_means_most_to_a_training():
    old = [make_record(name) for name in DORA]
    new = [
        failed(DORA[0], "x"),
        *(valued(name, forward_flops=899) for name in DORA[1:4]),
        valued(DORA[4], accuracy=[0.5] * 3),
        *(valued(name, backward_flops=10**12) for name in DORA[5:7]),
    ]
    findings = found(old, new)
    assert [one.verdict for one in findings] == [
        *("newly_failing", "regressed", "regressed", "missing", "improved")
    ]
    assert [len(one.members) for one in findings] == [1, 1, 2, 1, 3]


pairs = st.fixed_dictionaries(
    {name: st.tuples(*[st.none() | observations(name)] * 2) for name in IDS}
)


@fuzz(pairs, st.integers(0, 9), examples=300)
def test_each_reason_is_in_one_finding_of_its_verdict(sides, seed):
    old = {name: pair[0] for name, pair in sides.items() if pair[0]}
    new = {name: pair[1] for name, pair in sides.items() if pair[1]}
    verdicts = [judge_case(name, old.get(name), new.get(name)) for name in IDS]
    findings = find_causes(verdicts, old, new)

    members = [member for finding in findings for member in finding.members]
    told = [(member.case, reason) for member in members for reason in member.reasons]
    found = [(case.id, reason) for case in verdicts for reason in case.reasons]
    wanted = [pair for pair in found if pair[1].verdict != "known_defect"]
    assert sorted(told, key=repr) == sorted(wanted, key=repr)
    quiet = {"unchanged", "known_defect"}
    in_any = {name for finding in findings for name in finding.cases}
    assert in_any == {case.id for case in verdicts if case.verdict not in quiet}
    assert any(f.is_failing for f in findings) == any(c.verdict in FAILING for c in verdicts)
    for finding in findings:
        assert len(finding.cases) == len(set(finding.cases))
        assert finding.is_better == (finding.verdict in UNACCEPTED)
        finding.ranges()
        assert finding.example in finding.members

    random.Random(seed).shuffle(verdicts)
    shuffled = find_causes(verdicts, dict(reversed(old.items())), dict(reversed(new.items())))
    assert shuffled == findings
