"""Weights, batches and optimizers that differ, what trains, and a model that changed."""

import msgspec
import pytest
from builders import LORA, VALUES, compare, find_origins, make_record, observe

from peft_regress.gate.facts import first_difference
from peft_regress.gate.judge import judge, judge_case
from peft_regress.report import case_text, verdict_markdown, verdict_text
from peft_regress.report.verdict.finding import finding_details, finding_title
from peft_regress.runs.schema import Inputs, Ledger, ModuleCosts, ScriptFacts, TensorSummary


def summary(*shape, mean=0.1, norm=4.0, dtype="float32"):
    return TensorSummary(shape=list(shape), dtype=dtype, mean=mean, norm=norm)


INPUTS = Inputs(
    weights={"neck.bias": summary(8), "neck.weight": summary(8, 16)},
    train={"0": summary(4, 3, 8, 8), "1": summary(4, dtype="int64")},
    test={"0": summary(2, 3, 8, 8)},
    optimizer=[{"lr": 0.001, "weight_decay": 0.0}],
)


def changed(**parts):
    return msgspec.structs.replace(INPUTS, **parts)


def record(inputs=INPUTS, metrics=VALUES, **more):
    return make_record(LORA, metrics, **({} if inputs is None else {"inputs": inputs}), **more)


def weights(**others):
    return {**INPUTS.weights, **{name.replace("_", "."): value for name, value in others.items()}}


@pytest.mark.parametrize(
    ("inputs", "where", "old", "new"),
    [
        (changed(weights=weights(neck_bias=summary(9))), "weights neck.bias", "8", "9"),
        (
            changed(weights=weights(neck_weight=summary(8, 16, norm=4.001))),
            "weights neck.weight", "norm 4", "norm 4.001",
        ),
        (
            changed(train={**INPUTS.train, "0": summary(4, 3, 8, 8, mean=0.2)}),
            "training batches 0", "mean 0.1", "mean 0.2",
        ),
        (
            changed(test={"0": summary(2, 3, 8, 8, dtype="float64")}),
            "test batches 0", "float32", "float64",
        ),
        (
            changed(optimizer=[{"lr": 0.01, "weight_decay": 0.0}]),
            "optimizer group 0, lr", "0.001", "0.01",
        ),
        (changed(optimizer=INPUTS.optimizer * 2), "optimizer groups", "1", "2"),
        (changed(weights=weights(neck_extra=summary(3))), "weights neck.extra", "absent", "3"),
    ],
)  # fmt: skip
def test_the_first_difference_of_the_inputs_is_named(inputs, where, old, new):
    assert first_difference(record(), record(inputs)) == (where, old, new)


@pytest.mark.parametrize(
    "inputs",
    [
        INPUTS,
        None,
        changed(weights=weights(neck_weight=summary(8, 16, norm=4.00001))),
        # A mean near zero is compared with the size of the numbers.
        changed(weights=weights(neck_bias=summary(8, mean=0.1 + 5e-6))),
        changed(optimizer=[{"lr": 0.001, "weight_decay": 0.0, "fused": 1.0}]),
        changed(train={"0": INPUTS.train["0"]}),
        changed(weights={}, optimizer=[]),
    ],
)
def test_noise_and_what_only_one_side_knows_are_no_difference(inputs):
    assert first_difference(record(), record(inputs)) is None
    assert first_difference(record(inputs), record()) is None


def test_losses_and_scores_of_other_inputs_cannot_be_compared_and_costs_are_judged():
    other = changed(optimizer=[{"lr": 0.01}])
    worse = {**VALUES, "loss": [9.0] * 3, "first_losses": [[9.0] * 4] * 3, "accuracy": [0.1] * 3}
    case = judge_case(LORA, observe(record()), observe(record(other, worse)))
    (reason,) = case.reasons
    assert case.verdict == reason.verdict == "incomparable"
    assert (reason.name, reason.old, reason.new) == (
        "inputs",
        "optimizer group 0, lr: 0.001",
        "0.01",
    )
    dearer = record(other, {**worse, "forward_flops": 9e12}, invariants={"frozen": False})
    case = judge_case(LORA, observe(record(invariants={"frozen": True})), observe(dearer))
    found = {reason.name: reason.verdict for reason in case.reasons}
    assert found == {
        "inputs": "incomparable",
        "forward_flops": "regressed",
        "invariant frozen": "regressed",
    }


def test_of_the_same_files_other_inputs_are_the_work_of_the_packages():
    other = changed(weights=weights(neck_weight=summary(8, 16, norm=4.1)))
    old, new = record(invariants={"frozen": True}), record(other, invariants={"frozen": True})
    comparison = judge({LORA: observe(old)}, {LORA: observe(new)}, same_files=True)
    (case,), (finding,) = comparison.cases, comparison.findings
    (reason,) = case.reasons
    assert (case.verdict, reason.kind, reason.verdict) == ("regressed", "inputs", "regressed")
    assert (reason.obstacle, finding.cause.strand) == (None, "inputs")
    assert finding_title(finding).startswith("the inputs changed: weights neck.weight: norm")
    assert finding_details(finding, comparison) == [
        "losses and scores, which depend on the inputs, could not be judged"
    ]
    unseeded = observe(scripted(*LOSSES))
    case = judge_case(LORA, observe(scripted()), unseeded, same_files=True)
    assert [(one.kind, one.verdict) for one in case.reasons] == [("inputs", "regressed")]
    assert judge_case(LORA, observe(scripted()), unseeded).verdict == "incomparable"


def scripted(*unseeded, written="", **costs):
    """Return the record of a script, without what differs between its two runs."""
    metrics = {"peak_bytes": 9, "first_losses": [[2.0]], "gradient_norms": [[1.0]], **costs}
    facts = ScriptFacts(
        optimizers=[], autocast="", batches={}, unseeded=list(unseeded), written=written
    )
    names = ["neck.bias"] if "weights" in unseeded else INPUTS.weights
    weights = {name: INPUTS.weights[name] for name in names}
    kept = {name: value for name, value in metrics.items() if name not in unseeded}
    return record(changed(weights=weights), kept, script=facts)


LOSSES = ("first_losses", "gradient_norms")


@pytest.mark.parametrize(
    ("old", "new", "verdict", "reasons", "remarks"),
    [
        ((), ("weights", *LOSSES), "incomparable", {"inputs"}, ["unseeded"]),
        (LOSSES, (), "unchanged", set(), ["by bounds", *["new metric"] * 2]),
        (LOSSES, ("weights", *LOSSES), "unchanged", set(), ["unseeded"]),
        (LOSSES, ("peak_bytes", *LOSSES), "incomparable", {"inputs"}, ["unseeded"]),
        (("peak_bytes", *LOSSES), LOSSES, "unchanged", set(), ["unseeded", "new metric"]),
    ],
)
def test_a_script_is_judged_by_what_repeats_on_both_sides(old, new, verdict, reasons, remarks):
    case = judge_case(LORA, observe(scripted(*old)), observe(scripted(*new)))
    assert case.verdict == verdict
    assert {one.name for one in case.reasons} == reasons
    assert [one.kind for one in case.remarks] == remarks
    for reason in case.reasons:
        assert reason.new == f"differ: {', '.join(new)}"
    dearer = scripted(*new, trainable_params=2)
    case = judge_case(LORA, observe(scripted(*old, trainable_params=1)), observe(dearer))
    assert case.verdict == "regressed"


def test_what_a_script_wrote_is_told_until_a_reference_judges_it_and_compared_with_nothing():
    old, new = scripted(written="log.txt"), scripted(written="out/ and \x1b[1m")
    line = "files that the script wrote: out/ and [1m"
    for references in ([], [old]):
        comparison = compare(references, [new])
        assert line in case_text(comparison.cases[0], comparison)
        for text in (verdict_text(comparison), verdict_markdown(comparison)):
            assert ("files that the script wrote" in text) == (not references)
    assert comparison.counts == {"unchanged": 1}


def test_costs_alone_do_not_depend_on_the_inputs():
    old, new = (
        record(inputs, {"peak_bytes": 1}) for inputs in (INPUTS, changed(optimizer=[{"lr": 9.0}]))
    )
    assert judge_case(LORA, observe(old), observe(new)).verdict == "unchanged"


def test_a_loss_that_is_gone_is_a_regression_whatever_went_in():
    other = changed(optimizer=[{"lr": 0.01}])
    metrics = {name: value for name, value in VALUES.items() if name != "loss"}
    case = judge_case(LORA, observe(record()), observe(record(other, metrics)))
    assert case.verdict == "regressed"


def test_drift_counts_from_the_first_entry_with_the_same_inputs():
    old = record(INPUTS, {"accuracy": [0.90], "peak_bytes": 1_000_000})
    lower = record(changed(optimizer=[{"lr": 0.5}]), {"accuracy": [0.87], "peak_bytes": 1_000_900})
    newest = record(lower.inputs, {"accuracy": [0.86], "peak_bytes": 1_000_950})
    origins = find_origins([("1", old), ("2", lower), ("3", newest)])
    assert {name: origin.entry for name, origin in origins.items()} == {
        "accuracy": "2",
        "peak_bytes": "1",
    }


TRAINED = {"a.lora_A": [4, 8], "a.lora_B": [8, 4], "head.weight": [10, 8]}


@pytest.mark.parametrize(
    ("new", "words"),
    [
        ({"a.lora_A": [4, 8], "a.lora_B": [8, 4]}, "2 tensors: no longer head.weight"),
        ({**TRAINED, "b": [1]}, "4 tensors: newly b"),
        ({**TRAINED, "a.lora_A": [8, 8]}, "3 tensors: changed shape a.lora_A 4x8 -> 8x8"),
        (
            {f"p{number}": [1] for number in range(5)},
            "5 tensors: no longer a.lora_A, a.lora_B, head.weight; newly p0, p1, p2 and 2 more",
        ),
    ],
)
def test_another_set_of_trained_parameters_is_a_regression_that_names_them(new, words):
    old, after = (observe(make_record(LORA, trained=trained)) for trained in (TRAINED, new))
    case = judge_case(LORA, old, after)
    (reason,) = case.reasons
    assert (reason.name, reason.verdict, reason.old) == ("trained", "regressed", "3 tensors")
    assert reason.new == words


def test_a_set_that_is_recorded_no_longer_is_a_regression_and_a_new_one_is_none():
    old, new = observe(make_record(LORA, trained=TRAINED)), observe(make_record(LORA))
    assert judge_case(LORA, old, new).verdict == "regressed"
    assert judge_case(LORA, new, old).verdict == "unchanged"


def test_cases_that_train_other_parameters_alike_are_one_finding():
    ids = [LORA, "unseen/lora-r4/resnet18"]
    old = [make_record(name, trained=TRAINED) for name in ids]
    new = [make_record(name, trained={"a.lora_A": [4, 8]}) for name in ids]
    comparison = compare(old, new)
    (finding,) = comparison.findings
    assert (finding.cause.strand, finding.cases) == ("trained", tuple(ids))
    text = verdict_text(comparison)
    assert "trained: 3 tensors -> 1 tensor: no longer a.lora_B, head.weight" in text
    assert "no longer a.lora\\_B" in verdict_markdown(comparison)


def ledger(flops):
    return Ledger(modules={"neck": ModuleCosts(forward_flops={"aten.convolution": flops})})


def test_a_wider_neck_is_told_as_costs_with_their_layers_and_what_changed_in_the_model():
    wider = changed(weights=weights(neck_weight=summary(8, 32)))
    holds = {"stored_adapter_loads": True, "merge_equals_unmerged": True}
    old = record(
        INPUTS,
        {"forward_flops": 1000, "loss": [1.0], "trainable_params": 144},
        ledger=ledger(1000),
        trained={"neck.lora_A": [4, 16]},
        invariants=holds,
    )
    new = record(
        wider,
        {"forward_flops": 2000, "loss": [0.9], "trainable_params": 208},
        ledger=ledger(2000),
        trained={"neck.lora_A": [4, 32]},
        invariants={**holds, "stored_adapter_loads": None},
    )
    comparison = compare([old], [new])
    (case,) = comparison.cases
    found = {reason.name: reason.verdict for reason in case.reasons}
    assert found == {
        "inputs": "incomparable",
        "trained": "regressed",
        "trainable_params": "regressed",
        "forward_flops": "regressed",
    }
    assert [finding.cause.strand for finding in comparison.findings] == ["costs", "coverage"]
    text = verdict_text(comparison)
    assert "the model changed: changed shape neck.weight 8x16 -> 8x32" in text
    assert "trained: 1 tensor -> 1 tensor: changed shape neck.lora_A 4x16 -> 4x32" in text
    assert "inputs differ, so losses and scores cannot be compared: weights neck.weight" in text
    lines = case_text(case, comparison)
    assert "forward_flops: 1.000 kFLOP -> 2.000 kFLOP" in lines
    assert "neck aten.convolution: +1.000 kFLOP" in lines


@pytest.mark.parametrize(
    "inputs",
    [
        changed(weights=weights(neck_weight=summary(8, 16, norm=4.1))),
        changed(test={"0": summary(2, 3, 8, 8, norm=5.0)}),
    ],
    ids=["weights", "test data"],
)
def test_a_stored_adapter_of_other_weights_or_test_data_says_nothing(inputs):
    old = record(invariants={"stored_adapter_loads": True})
    new = record(inputs, invariants={"stored_adapter_loads": None})
    case = judge_case(LORA, observe(old), observe(new))
    assert {reason.name: reason.verdict for reason in case.reasons} == {"inputs": "incomparable"}


def test_an_adapter_that_no_longer_loads_into_the_same_model_is_a_regression():
    old, new = (
        observe(record(invariants={"stored_adapter_loads": value})) for value in (True, None)
    )
    assert judge_case(LORA, old, new).verdict == "regressed"
    broken = record(
        changed(weights=weights(neck_weight=summary(8, 32))),
        {"peak_bytes": 1},
        invariants={"stored_adapter_loads": False},
    )
    old = observe(record(metrics={"peak_bytes": 1}, invariants={"stored_adapter_loads": True}))
    assert judge_case(LORA, old, observe(broken)).verdict == "regressed"
