"""The first line of a verdict names the defect: each kind of regression that users reported.

The noise beside it is what hid it once: a small cost, or losses that follow from it.
"""

import msgspec
import pytest
from builders import CURVE, LORA, VALUES, compare, curve, make_record

from peft_regress.report import verdict_text
from peft_regress.runs.schema import Defect, Failure, Inputs, ScriptFacts, TensorSummary

NOISE = {"peak_bytes": VALUES["peak_bytes"] * 1.002}
LOSSES = [[first, first - 0.1, 8.4, 9.0] for first in (2.3, 2.4, 2.5)]
FAR = {**VALUES, **NOISE, "first_losses": LOSSES}
TRAINED = {"lm_head.weight": [32, 8], "lora_A.weight": [4, 8]}
SCRIPT = ScriptFacts(optimizers=["AdamW"], autocast="bfloat16", batches={})


def tensor(*shape, norm=4.0, rows=None, dtype="int64"):
    found = TensorSummary(shape=list(shape), dtype=dtype, mean=0.1, norm=norm)
    return found if rows is None else msgspec.structs.replace(found, rows=rows)


def batches(labels, ids=(1.0, 2.0, 3.0, 4.0)):
    return Inputs(
        train={"input_ids": tensor(4, 8, rows=list(ids)), "labels": tensor(4, rows=list(labels))}
    )


def weighted(**weights):
    return Inputs(weights={"lora.weight": tensor(4, 8, dtype="float32"), **weights})


HEAD = {"lm_head.weight": tensor(32, 8, dtype="float32")}
OTHER_OPTIMIZER = msgspec.structs.replace(SCRIPT, optimizers=["AdamW", "SGD"])
IN_FLOAT32 = msgspec.structs.replace(SCRIPT, autocast="")
LABELS = batches((5.0, 6.0, 7.0, 8.0))

KINDS = {
    "a library raises": (
        {},
        {"status": "error", "error": Failure(type="KeyError", message="'lora_A'")},
        "newly failing in 1 case: ok -> error (KeyError: 'lora_A')",
    ),
    "the head no longer trains": (
        {"trained": TRAINED},
        {"trained": {"lora_A.weight": [4, 8]}, "metrics": {**FAR, "trainable_params": 32}},
        "regressed in 1 case: trained: 2 tensors -> 1 tensor: no longer lm_head.weight",
    ),
    "a model lost a parameter": (
        {"script": SCRIPT, "inputs": weighted(**HEAD), "metrics": {**VALUES, "total_params": 288}},
        {"script": SCRIPT, "inputs": weighted(), "metrics": {**FAR, "total_params": 32}},
        "regressed in 1 case: the model no longer has lm_head.weight",
    ),
    "a bfloat16 base became float32": (
        {"numerics": "bfloat16"},
        {"numerics": "usual", "metrics": {**FAR, "peak_param_bytes": 1}},
        "regressed in 1 case: the precision changed from bfloat16 to usual",
    ),
    "autocast is off": (
        {"script": SCRIPT},
        {"script": IN_FLOAT32, "metrics": FAR},
        "regressed in 1 case: autocast: bfloat16 -> off",
    ),
    "another optimizer": (
        {"script": SCRIPT},
        {"script": OTHER_OPTIMIZER, "metrics": FAR},
        "regressed in 1 case: optimizer: AdamW -> AdamW SGD",
    ),
    "the rate falls at once": (
        {"rates": [[4e-4]]},
        {"rates": [[4e-5]], "metrics": FAR},
        "regressed in 1 case: learning rate after step 1: 0.0004 -> 4e-05",
    ),
    "labels of some rows changed": (
        {"inputs": LABELS},
        {"inputs": batches((5.0, 6.5, 7.0, 8.5)), "metrics": FAR},
        "regressed in 1 case: the inputs changed: in the first training batch, labels differ in 2",
    ),
    "another order of the data": (
        {"inputs": LABELS},
        {"inputs": batches((7.0, 8.0, 5.0, 6.0), (3.0, 4.0, 1.0, 2.0)), "metrics": FAR},
        "regressed in 1 case: the inputs changed: in the first training batch, input_ids, labels",
    ),
    "an update is applied twice": (
        {},
        {"metrics": FAR},
        "regressed in 1 case: first_losses +300 %",
    ),
    "dropout from some step on": (
        {"curve": CURVE},
        {"curve": curve(9), "metrics": NOISE | VALUES},
        "regressed in 1 case: computes something else from step 10 on: loss",
    ),
    "merging forgets the bias": (
        {"invariants": {"merge_equals_unmerged": True}},
        {
            "invariants": {"merge_equals_unmerged": False},
            "defects": {"merge_equals_unmerged": Defect(tensors=["conv1"], size=0.3)},
            "metrics": {**VALUES, **NOISE},
        },
        "regressed in 1 case: merging changes the output (merge_equals_unmerged: true -> false)",
    ),
    "the base is computed twice": (
        {},
        {"metrics": {**VALUES, "forward_flops": 2 * VALUES["forward_flops"], **NOISE}},
        "regressed in 1 case: forward_flops +100 %, peak_bytes +0.2 %",
    ),
    "activations are kept": (
        {"metrics": {**VALUES, "peak_buffer_bytes": 48}},
        {"metrics": {**VALUES, "peak_buffer_bytes": 16, "peak_bytes": 180_000_000}},
        "regressed in 1 case: peak_bytes +50 %",
    ),
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_first_line_names_the_defect_and_not_what_follows_from_it(kind):
    old, new, line = KINDS[kind]
    records = ([make_record(LORA, **side)] for side in (old, new))
    comparison = compare(*records, same_files=True)
    text = " ".join(verdict_text(comparison).partition("\n  case ")[0].split())
    assert text.startswith(f"1. {line}")
