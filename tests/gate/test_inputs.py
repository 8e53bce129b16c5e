"""Weights, batches and optimizers that differ, what trains, and a model that changed."""

import msgspec
import pytest
from builders import (
    CURVE,
    LORA,
    VALUES,
    compare,
    curve,
    find_origins,
    judged,
    make_record,
    observe,
    trained,
)

from peft_regress.gate.inputs import telling_difference
from peft_regress.gate.judge import judge
from peft_regress.report import case_text, verdict_markdown, verdict_text
from peft_regress.report.verdict.finding import finding_details, finding_title
from peft_regress.runs.schema import Inputs, ScriptFacts, TensorSummary


def summary(*shape, mean=0.1, norm=4.0, dtype="float32", **rows):
    return TensorSummary(shape=list(shape), dtype=dtype, mean=mean, norm=norm, **rows)


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


def weighing(**others):
    return changed(weights=weights(**others))


RATE = {"lr": 0.01, "weight_decay": 0.0}
NOTHING = {"mean": 0.0, "norm": 0.0}
ONE_WEIGHT = {"neck.bias": summary(8)}


@pytest.mark.parametrize(
    ("inputs", "where", "old", "new"),
    [
        (weighing(neck_bias=summary(9)), "weights neck.bias", "8", "9"),
        (
            weighing(neck_weight=summary(8, 16, norm=4.001)),
            "weights neck.weight", "norm 4", "norm 4.001",
        ),
        (
            changed(train={**INPUTS.train, "0": summary(4, 3, 8, 8, mean=0.2)}),
            "training batches 0", "mean 0.1", "mean 0.2",
        ),
        (weighing(neck_bias=summary(8, **NOTHING)), "weights neck.bias", "norm 4", "constant 0"),
        # Each tells more than the last: numbers, a shape, a constant, a gone weight, a dtype.
        (
            weighing(neck_weight=summary(8, 9), neck_bias=summary(8, norm=5.0)),
            "weights neck.weight", "8x16", "8x9",
        ),
        (
            changed(
                weights=weights(neck_bias=summary(9)),
                train={**INPUTS.train, "1": summary(4, dtype="int64", **NOTHING)},
            ),
            "training batches 1", "norm 4", "constant 0",
        ),
        (
            changed(weights={"neck.bias": summary(8, **NOTHING)}, optimizer=[RATE]),
            "weights neck.weight", "8x16", "absent",
        ),
        (
            changed(weights=ONE_WEIGHT, test={"0": summary(1, dtype="float64")}),
            "test batches 0", "float32", "float64",
        ),
        (changed(optimizer=[RATE]), "optimizer group 0, lr", "0.001", "0.01"),
        (changed(optimizer=[*INPUTS.optimizer, RATE]), "optimizer groups", "1", "2"),
        (weighing(neck_extra=summary(3)), "weights neck.extra", "absent", "3"),
    ],
)  # fmt: skip
def test_the_difference_of_the_inputs_that_tells_most_is_named(inputs, where, old, new):
    found = telling_difference(record(), record(inputs))
    assert (found.where, found.old, found.new) == (where, old, new)


IMAGES = [0.5, -1.5, 2.5, -3.5]
LABELS = [1.0, 0.0, 2.0, 1.0]
TOKENS = [[5.0, 6.0, 7.0], [50.0, 60.0, 70.0]]


def batches(images, labels=LABELS, norm=4.0):
    shown = {} if images is None else {"rows": images}
    return changed(
        train={
            "0": summary(len(IMAGES), 8, norm=norm, **shown),
            "1": summary(4, dtype="int64", rows=labels),
        }
    )


def texts(ids, labels):
    return changed(
        train={
            name: summary(3, 9, dtype="int64", rows=rows)
            for name, rows in (("input_ids", ids), ("labels", labels))
        }
    )


EQUAL_SUMS = "norm and mean of all batches are equal"


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        (
            batches(IMAGES), batches(IMAGES, [1.0, 1.0, 0.0, 1.0]),
            f"labels differ in 2 of 4 rows; inputs are equal; {EQUAL_SUMS}",
        ),
        (
            batches(IMAGES), batches([0.5, -1.5, 9.0, -3.5], norm=5.0),
            "inputs differ in 1 of 4 rows; labels are equal",
        ),
        (
            batches(IMAGES), batches(IMAGES[::-1], LABELS[::-1]),
            f"inputs, labels have another order; {EQUAL_SUMS}",
        ),
        (
            batches(IMAGES), batches([1.0, 2.0, 3.0, 4.0], [0.0, 0.0, 0.0, 1.0]),
            f"inputs differ in 4 of 4 rows; labels differ in 2 of 4 rows; {EQUAL_SUMS}",
        ),
        (texts(*TOKENS), texts(*TOKENS[::-1]), "input_ids and labels are swapped"),
        (
            changed(train={"": summary(99, 2, rows=[1.0] * 64)}),
            changed(train={"": summary(99, 2, rows=[1.0] * 63 + [2.0], norm=9.0)}),
            "values differ in 1 of the first 64 rows",
        ),
    ],
)  # fmt: skip
def test_other_rows_of_the_first_batch_are_told_in_words(old, new, words):
    comparison = compare([record(old)], [record(new)])
    (reason,) = comparison.cases[0].reasons
    text = f"in the first training batch, {words}"
    found = (reason.name, reason.old, reason.new, reason.verdict)
    assert found == ("inputs", None, text, "incomparable")
    assert f"inputs: {text}" in " ".join(case_text(comparison.cases[0], comparison).split())
    assert f"cannot be compared: {text}" in " ".join(verdict_text(comparison).split())


@pytest.mark.parametrize(
    ("rows", "norm", "where"),
    [
        (None, 4.0, None),
        (None, 5.0, "training batches 0"),
        ([0.5 + 4e-6, -1.5, 2.5, -3.5], 4.0, None),
        (IMAGES, 5.0, "training batches 0 after the first 4 rows"),
    ],
    ids=["not recorded", "by their norm", "rounding", "a later batch"],
)
def test_rows_are_compared_if_both_sides_have_them_but_for_rounding(rows, norm, where):
    for old, new in ((IMAGES, rows), (rows, IMAGES)):
        found = telling_difference(record(batches(old)), record(batches(new, norm=norm)))
        assert (found and found.where) == where


IDS = (LORA, "unseen/lora-r4/resnet18")


@pytest.mark.parametrize(
    ("old", "new", "strand"),
    [
        (
            {"inputs": INPUTS},
            [{"inputs": weighing(neck_bias=summary(8, norm=norm))} for norm in (5.0, 6.0)],
            "coverage",
        ),
        ({"trained": {"a.lora_A": [4, 8]}}, [{"trained": {"b": [1]}}] * 2, "trained"),
    ],
    ids=["weights", "what trains"],
)
def test_cases_whose_same_part_differs_are_one_finding(old, new, strand):
    records = [make_record(name, **one) for name, one in zip(IDS, new, strict=True)]
    (finding,) = compare([make_record(name, **old) for name in IDS], records).findings
    assert (finding.cause.strand, finding.cases) == (strand, IDS)


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
        changed(optimizer=INPUTS.optimizer * 2),
    ],
)
def test_noise_and_what_only_one_side_knows_are_no_difference(inputs):
    assert telling_difference(record(), record(inputs)) is None
    assert telling_difference(record(inputs), record()) is None


def test_losses_and_scores_of_other_inputs_cannot_be_compared_and_costs_are_judged():
    other = changed(optimizer=[{"lr": 0.01}])
    worse = {**VALUES, "loss": [9.0] * 3, "first_losses": [[9.0] * 4] * 3, "accuracy": [0.1] * 3}
    (reason,) = judged(record(), record(other, worse)).reasons
    found = (reason.name, reason.note, reason.old, reason.new, reason.verdict)
    assert found == ("inputs", "optimizer group 0, lr", "0.001", "0.01", "incomparable")
    dearer = record(other, {**worse, "forward_flops": 9e12}, invariants={"frozen": False})
    case = judged(record(invariants={"frozen": True}), dearer)
    found = {reason.name: reason.verdict for reason in case.reasons}
    assert found == {
        "inputs": "incomparable",
        "forward_flops": "regressed",
        "invariant frozen": "regressed",
    }
    # A loss that is gone is one whatever went in, and costs alone do not depend on it.
    gone = {name: value for name, value in VALUES.items() if name != "loss"}
    assert judged(record(), record(other, gone)).verdict == "regressed"
    alone = (record(one, {"peak_bytes": 1}) for one in (INPUTS, other))
    assert judged(*alone).verdict == "unchanged"


def test_of_the_same_files_other_inputs_are_the_work_of_the_packages():
    other = weighing(neck_weight=summary(8, 16, norm=4.1))
    comparison = judge({LORA: observe(record())}, {LORA: observe(record(other))}, same_files=True)
    (case,), (finding,) = comparison.cases, comparison.findings
    (reason,) = case.reasons
    assert (reason.kind, reason.verdict, reason.obstacle) == ("inputs", "regressed", None)
    assert (case.verdict, finding.cause.strand) == ("regressed", "inputs")
    assert finding_title(finding).startswith("the inputs changed: weights neck.weight: norm")
    assert finding_details(finding, comparison) == [
        "losses and scores, which depend on the inputs, could not be judged"
    ]
    case = judged(scripted(), scripted(*LOSSES), same_files=True)
    assert [(one.kind, one.verdict) for one in case.reasons] == [("inputs", "regressed")]


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
    case = judged(scripted(*old), scripted(*new))
    assert case.verdict == verdict
    assert {one.name for one in case.reasons} == reasons
    assert [one.kind for one in case.remarks] == remarks
    for reason in case.reasons:
        assert reason.new == f"differ: {', '.join(new)}"
    dearer = judged(scripted(*old, trainable_params=1), scripted(*new, trainable_params=2))
    assert dearer.verdict == "regressed"


def test_a_parameter_that_a_script_lost_or_gained_is_a_regression_and_a_buffer_a_remark():
    old, bare = (scripted(total_params=count) for count in (136, 8))
    fewer = changed(weights=ONE_WEIGHT)
    lost = msgspec.structs.replace(bare, inputs=fewer)
    for sides, word in (((old, lost), "no longer"), ((lost, old), "newly")):
        (case,) = compare(*([side] for side in sides)).cases
        words = [one.new for one in case.reasons if one.kind == "model"]
        assert (case.verdict, words) == ("regressed", [f"the model {word} has neck.weight"])
    case = judged(old, msgspec.structs.replace(old, inputs=fewer))
    assert (case.verdict, case.reasons) == ("unchanged", ())
    assert "model" in {one.kind for one in case.remarks}


def test_what_a_script_wrote_is_told_until_a_reference_judges_it_and_compared_with_nothing():
    old, new = scripted(written="log.txt"), scripted(written="out/ and \x1b[1m")
    line = "files that the script wrote: out/ and [1m"
    for references in ([], [old]):
        comparison = compare(references, [new])
        assert line in case_text(comparison.cases[0], comparison)
        for text in (verdict_text(comparison), verdict_markdown(comparison)):
            assert ("files that the script wrote" in text) == (not references)
    assert comparison.counts == {"unchanged": 1}


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
    (reason,) = judged(*(make_record(LORA, trained=one) for one in (TRAINED, new))).reasons
    assert (reason.name, reason.verdict, reason.old) == ("trained", "regressed", "3 tensors")
    assert reason.new == words


@pytest.mark.parametrize(
    ("losses", "shape", "verdict"),
    [(CURVE, [8, 4], "incomparable"), (curve(3), [8, 4], "regressed"),
     (CURVE, [4], "regressed"), (msgspec.UNSET, [8, 4], "regressed")],
    ids=["renamed", "another curve", "another shape", "no curve"],
)  # fmt: skip
def test_a_renamed_layer_with_equal_losses_is_no_regression(losses, shape, verdict):
    old = trained(trained={"neck.lora_B": [8, 4]}, inputs=INPUTS, curve=CURVE)
    renamed = changed(weights={"throat.bias": summary(8), "throat.weight": summary(8, 16)})
    new = trained(trained={"throat.lora_B": shape}, inputs=renamed, curve=losses)
    comparison = compare([old], [new])
    found = {one.kind: one.verdict for one in comparison.cases[0].reasons}
    assert (found["trained"], found["inputs"]) == (verdict, "incomparable")
    text = " ".join(verdict_text(comparison).split())
    assert "cannot be compared: weights neck.bias: 8 -> absent" in text
    # Also below what trains otherwise.
    assert text.count("the model changed: no longer has") == 1 + (verdict == "regressed")


def test_a_set_that_is_recorded_no_longer_is_a_regression_and_a_new_one_is_none():
    old, new = make_record(LORA, trained=TRAINED), make_record(LORA)
    assert judged(old, new).verdict == "regressed"
    assert judged(new, old).verdict == "unchanged"


@pytest.mark.parametrize(
    ("inputs", "loads", "reasons"),
    [
        # Of other weights or test data it says nothing.
        (weighing(neck_weight=summary(8, 16, norm=4.1)), None, ["inputs"]),
        (changed(test={"0": summary(2, 3, 8, 8, norm=5.0)}), None, ["inputs"]),
        (INPUTS, None, ["invariant stored_adapter_loads"]),
        (
            weighing(neck_weight=summary(8, 32)), False,
            ["inputs", "invariant stored_adapter_loads"],
        ),
    ],
    ids=["weights", "test data", "not checked", "broken"],
)  # fmt: skip
def test_an_adapter_that_no_longer_loads_into_the_same_model_is_a_regression(
    inputs, loads, reasons
):
    old = record(invariants={"stored_adapter_loads": True})
    case = judged(old, record(inputs, invariants={"stored_adapter_loads": loads}))
    assert sorted(reason.name for reason in case.reasons) == reasons
