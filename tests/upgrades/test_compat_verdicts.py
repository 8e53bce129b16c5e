"""How a release is judged from what it made of an adapter."""

import msgspec
import pytest

from peft_regress.measure.invariants.outputs import STORED_TOLERANCE
from peft_regress.upgrades.compat.judging import TOLERANCE, judge
from peft_regress.upgrades.compat.releases import BaseMade, Loaded, Seen

BASE = BaseMade(weights="w", inputs="i", outputs=[[1.0, 2.0], [1.0]])
LOADED = Loaded(
    outputs=[[1.0, -2.0], [0.01]],
    merged=[[1.0, -2.0], [0.01]],
    unknown_fields=["known"],
    default_fields=["usual"],
    trainable=["a", "b"],
    missing_keys=["always"],
)
REFUSING = {"merged": None, "merge_problem": "NotImplementedError: groups"}
OFF = {"merged": [[1.0, -2.2], [0.01]]}
BY = ", by 0.1 of the largest output"


def verdict(adapter, reference, base=BASE, of_reference=BASE):
    seen = Seen(
        packages={}, base=of_reference, adapter=msgspec.structs.replace(LOADED, **reference)
    )
    return judge(base, msgspec.structs.replace(LOADED, **adapter), seen)


@pytest.mark.parametrize(
    ("adapter", "reference", "expected", "details"),
    [
        ({}, {}, "same", ()),
        ({"is_finite": False}, {}, "other_output", ("its output is NaN or infinite",)),
        (
            {"is_steady": False},
            {},
            "other_output",
            ("its output is another one each time it runs",),
        ),
        # A merge must give what the reference computes before it.
        (OFF, {}, "other_output", (f"merged, it computes something else{BY}",)),
        ({"merged": []}, {}, "other_output", ("merged, it computes something else",)),
        # One that is wrong or impossible in the reference too is not held against a release.
        (OFF, OFF, "same", (f"merging changes the output{BY}, as in the reference",)),
        ({}, OFF, "same", ()),
        (REFUSING, {}, "no_merge", ("does not merge: NotImplementedError: groups",)),
        (REFUSING, REFUSING, "same", ()),
        (OFF, REFUSING, "same", (f"merging changes the output{BY}; the reference cannot merge",)),
        # What is loaded otherwise breaks nothing.
        *(
            (values, {}, "loads_otherwise", (words,))
            for values, words in (
                ({"missing_keys": ["always", "k"]}, "the file lacks 1 tensor: k"),
                ({"unexpected_keys": ["k"]}, "does not use 1 tensor: k"),
                ({"altered_keys": ["k", "l"]}, "changes the numbers of 2 tensors: k, l"),
                ({"unknown_fields": ["usual", "use_x"]}, "ignores the settings use_x"),
                ({"changed_fields": {"r": ("4", "8")}}, "reads r = 4 as 8"),
                ({"trainable": ["a", "b", "c"]}, "trains 1 more parameter: c"),
                ({"trainable": ["a"]}, "does not train 1 parameter: b"),
                ({"trainable_for_inference": ["a"]}, "loaded for inference, trains a"),
                ({"training_problem": "no"}, "does not load to train on: no"),
            )
        ),
        # What the reference does too, and fields at their default, are no difference.
        ({"unknown_fields": ["known", "usual", "peft_version"]}, {}, "same", ()),
        ({"missing_keys": []}, {}, "same", ()),
    ],
)
def test_a_release_is_judged_by_the_reference(adapter, reference, expected, details):
    found = verdict(adapter, reference)
    assert (found.verdict, found.details) == (expected, details)
    assert found.exit_code == (expected in {"other_output", "no_merge"})


@pytest.mark.parametrize(
    ("outputs", "difference", "expected"),
    [
        ([[1.0, -2.0 * (1 + 0.9 * TOLERANCE)], [0.01]], 0.9 * TOLERANCE, "same"),
        ([[1.0, -2.0 * (1 + 1.1 * TOLERANCE)], [0.01]], 1.1 * TOLERANCE, "other_output"),
        # Each tensor by its own size: the second one is small.
        ([[1.0, -2.0], [0.0101]], 0.01, "other_output"),
        ([[1.0, -2.0]], None, "other_output"),
        ([[1.0], [0.01]], None, "other_output"),
    ],
)
def test_another_output_is_told_by_how_much_of_the_largest(outputs, difference, expected):
    found = verdict({**REFUSING, "outputs": outputs}, REFUSING)
    assert found.verdict == expected
    assert found.difference == (difference and pytest.approx(difference, rel=1e-3))


def test_what_differs_from_zero_has_no_difference():
    nothing = {"outputs": [[0.0]], "merged": [[0.0]]}
    bases = [msgspec.structs.replace(BASE, outputs=[[1.0]])] * 2
    assert verdict(nothing, nothing, *bases).verdict == "same"
    other = verdict({"outputs": [[1e-30]]}, nothing, *bases)
    assert (other.verdict, other.difference) == ("other_output", None)


@pytest.mark.parametrize(
    ("base", "problem"),
    [
        ({"weights": "x"}, "other weights"),
        ({"inputs": "x"}, "the inputs are others"),
        ({"outputs": [[1.0, 2.1], [1.0]]}, "itself computes something else here, by 0.05"),
    ],
)
def test_another_base_is_incomparable_even_if_the_outputs_agree(base, problem):
    found = verdict({}, {}, msgspec.structs.replace(BASE, **base))
    assert (found.verdict, found.exit_code) == ("incomparable", 3)
    assert problem in found.details[0]


@pytest.mark.parametrize(("change", "is_seen"), [(0.0, False), (2.9e-4, False), (3.1e-4, True)])
def test_an_adapter_whose_change_cannot_be_seen_is_incomparable(change, is_seen):
    outputs = [[1.0, 2.0 * (1 + change)], [1.0]]
    adapter = {"outputs": outputs, "merged": outputs}
    assert verdict(adapter, adapter).verdict == ("same" if is_seen else "incomparable")
    found = verdict({**adapter, "missing_keys": ["always", "k"]}, adapter)
    assert found.verdict == ("loads_otherwise" if is_seen else "incomparable")
    assert found.details[-1] == "the file lacks 1 tensor: k"
    moved = {**adapter, "outputs": [[1.0, 2.5], [1.0]]}
    assert verdict(moved, adapter).verdict == "other_output"


def test_the_tolerance_is_that_of_stored_outputs():
    assert TOLERANCE == STORED_TOLERANCE
