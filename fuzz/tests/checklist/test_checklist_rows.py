"""The rows of a checklist: what is within bounds, out of them, or not measured."""

import math

import msgspec
import pytest

from peft_fuzz.checklist.judge import HALF_BOUNDS, judge
from peft_fuzz.checklist.running import Difference, Result
from peft_fuzz.checklist.situations import PARTS, Examined, Inspected, Situation
from peft_regress.runs.schema import Failure

KEYS = {"lora_A.weight": "float32 [4, 16]"}
USUAL = "as in the catalogue"
FIELDS = {"r": "8", "use_dora": "False"}
NOTHING = Failure(type="ValueError", message="not here")


def situation(**changes):
    usual = Situation(method="lora", network="linear", label=USUAL, rank=4, settings={})
    return msgspec.structs.replace(usual, **changes)


def examined(**changes):
    usual = Examined(keys=KEYS, effect=0.5, losses=[2.0, 1.0])
    return msgspec.structs.replace(usual, **changes)


def apart(value=0.0, *, largest=2.0):
    return Difference(largest_base=largest, largest_branch=largest, absolute=value)


NO_DIFFERENCE = {part: apart() for part in PARTS}


def result(*, base=None, branch=None, found=None, **changes):
    return Result(
        situation=situation(**changes),
        base=examined() if base is None else base,
        branch=examined() if branch is None else branch,
        found=NO_DIFFERENCE | (found or {}) if found != {} else {},
    )


def judged(*results, branch_fields=FIELDS):
    inspected = (
        Inspected(packages={"peft": "1.0"}, fields=FIELDS),
        Inspected(packages={"peft": "1.1"}, fields=branch_fields),
    )
    return judge(results or [result()], inspected)


def row(found, about, word=""):
    (chosen,) = [row for row in found.rows if row.about == about and word in row.what]
    return chosen


def test_equal_sides_are_within_every_bound():
    found = judged()
    assert {row.about for row in found.rows if row.verdict == "ok"} == {
        *("outputs", "checkpoint", "configuration", "training")
    }
    assert (row(found, "training").base, row(found, "training").branch) == ("1.000000", "1.000000")
    assert found.exit_code == 0


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("value", [2e-4, math.nan, math.inf])
def test_an_output_beyond_the_protocols_bound_fails(part, value):
    found = judged(result(found={part: apart(value)}), result(label="another"))
    outputs_row = row(found, "outputs")
    assert (outputs_row.verdict, found.exit_code) == ("out of bounds", 1)
    (detail,) = outputs_row.details
    assert detail.said.startswith(f"1 of 14 outputs differ, most {USUAL}, {part}, by ")


@pytest.mark.parametrize(
    ("dtype", "bound"),
    [("float32", 1e-4), *((dtype, 2 * one) for dtype, one in HALF_BOUNDS.items())],
)
def test_the_bound_is_absolute_in_float32_and_relative_to_the_outputs_of_a_half(dtype, bound):
    assert NO_DIFFERENCE["merged"].largest_base == 2
    for share, verdict in ((0.9, "ok"), (1.1, "out of bounds")):
        found = judged(result(found={"merged": apart(share * bound)}, dtype=dtype))
        assert row(found, "outputs", dtype).verdict == verdict


LOST = Examined(lost="its worker was killed by SIGKILL")
HIDDEN = "not judged: the adapter itself changes outputs"


@pytest.mark.parametrize(
    ("base", "branch", "dtype", "verdict", "said"),
    [
        (Examined(unavailable="float16: not implemented for 'Half'"), Examined(), "float16",
         "not measured", "this CPU cannot compute it"),
        (LOST, Examined(), "float32", "not measured", "the base gave no answer"),
        (examined(), LOST, "float32", "out of bounds", "the branch gave no answer"),
        # An adapter must change an output by twice the bound: of 5 % of outputs of 2 in bfloat16.
        (examined(effect=0.0), None, "float32", "not measured", HIDDEN),
        (examined(effect=1.9e-4), None, "float32", "not measured", HIDDEN),
        (examined(effect=math.nan), None, "float32", "not measured", HIDDEN),
        (examined(effect=0.19), None, "bfloat16", "not measured", HIDDEN),
        (examined(effect=0.21), None, "bfloat16", "ok", ""),
    ],
)  # fmt: skip
def test_what_cannot_be_compared_is_not_measured_and_fails_if_only_the_branch_fails(
    base, branch, dtype, verdict, said
):
    found = judged(result(label="another"), result(base=base, branch=branch, dtype=dtype))
    outputs = row(found, "outputs", dtype)
    code = {"ok": 0, "out of bounds": 1, "not measured": 3}[verdict]
    assert (outputs.verdict, found.exit_code) == (verdict, code)
    assert "".join(detail.said for detail in outputs.details).startswith(said)


@pytest.mark.parametrize("stage", ["adapting", *dict.fromkeys(PARTS.values())])
def test_what_the_base_can_do_and_the_branch_cannot_fails(stage):
    outputs = {} if stage in {"adapting", "loading"} else {"unmerged": apart()}
    branch = examined(failures={stage: NOTHING})
    found = row(judged(result(branch=branch, found=outputs)), "outputs")
    assert found.verdict == "out of bounds"
    assert f"the branch fails: {stage}: ValueError: not here" in found.details[-1].said


@pytest.mark.parametrize("word", ["", " (the branch can)"])
def test_what_the_base_cannot_do_is_listed_and_judged_nowhere(word):
    refused = Examined(failures={"adapting": NOTHING})
    branch = None if word else refused
    found = judged(result(), result(base=refused, branch=branch, found={}, network="conv3d"))
    assert not [row for row in found.rows if "Conv3d" in row.what]
    said = f"adapting: ValueError: not here{word}"
    assert (found.unsupported, found.exit_code) == (((f"Conv3d ({USUAL})", said),), 0)
    # If nothing else is compared, it is no pass.
    assert judged(result(base=refused, branch=branch, found={})).exit_code == 3


def test_a_checkpoint_may_change_if_its_outputs_stay():
    branch = examined(keys={"A.weight": "float32 [4, 16]"})
    converted = row(judged(result(branch=branch)), "checkpoint")
    assert converted.verdict == "ok"
    assert "converted while loading" in converted.difference
    # Either from the file of the base or from its own the branch computes something else.
    for part in ("unmerged", "reloaded"):
        lost = row(judged(result(branch=branch, found={part: apart(1.0)})), "checkpoint")
        assert lost.verdict == "out of bounds"
        assert "1 absent, such as lora_A.weight; 1 new, such as A.weight" in lost.details[0].said
    unseen = row(judged(result(base=examined(effect=0.0), branch=branch)), "checkpoint")
    assert unseen.verdict == "not measured"
    assert "converted" not in unseen.difference


@pytest.mark.parametrize("types", [("float32", "float16"), ("float16", "float32")])
def test_a_tensor_of_another_type_is_no_conversion(types):
    base, branch = (examined(keys={"lora_A.weight": f"{one} [4, 16]"}) for one in types)
    found = row(judged(result(base=base, branch=branch)), "checkpoint")
    assert found.verdict == "out of bounds"
    assert f"lora_A.weight: {types[0]} [4, 16] -> {types[1]} [4, 16]" in found.details[0].said


def test_a_new_field_is_right_if_old_checkpoints_give_the_same():
    found = judged(branch_fields={**FIELDS, "use_new": "False"})
    assert row(found, "configuration", "new").verdict == "ok"
    assert row(found, "configuration", "new").difference == "use_new=False"
    moved = judged(result(found={"unmerged": apart(1.0)}), branch_fields={**FIELDS, "x": "1"})
    assert row(moved, "configuration", "new").verdict == "shown"


@pytest.mark.parametrize(
    ("fields", "word"), [({"r": "8"}, "removed"), ({"r": "8", "use_dora": "True"}, "changed")]
)
def test_a_removed_field_and_a_changed_default_fail(fields, word):
    found = judged(branch_fields=fields)
    assert row(found, "configuration", word).verdict == "out of bounds"
    assert "use_dora" in row(found, "configuration", word).difference
    assert found.exit_code == 1


def test_a_training_that_the_base_lacks_is_listed():
    base = examined(losses=[], failures={"training": NOTHING})
    found = judged(result(), result(base=base, network="conv3d"))
    assert [detail.said for detail in found.unsupported] == ["training: ValueError: not here"]
    assert found.exit_code == 0
    assert judged(result(base=base)).exit_code == 3


@pytest.mark.parametrize(
    ("branch", "said"),
    [
        ({"losses": [2.0, 1.00009]}, ""),
        ({"losses": [2.0, 1.00011]}, "losses differ by 0.00011"),
        ({"losses": [2.0]}, "losses differ by inf"),
        (
            {"losses": [], "failures": {"training": NOTHING}},
            "the branch fails: training: ValueError: not here",
        ),
    ],
)
def test_a_branch_must_train_alike(branch, said):
    found = row(judged(result(branch=examined(**branch))), "training")
    assert found.verdict == ("out of bounds" if said else "ok")
    assert "".join(detail.said for detail in found.details) == said
