"""How a release is judged from what it made of an adapter; no torch."""

import msgspec
import pytest

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
REFERENCE = Seen(packages={}, base=BASE, adapter=LOADED)


def changed(**values):
    return msgspec.structs.replace(LOADED, **values)


def verdict(adapter=LOADED, base=BASE, reference=REFERENCE):
    return judge(base, adapter, reference)


def test_what_equals_the_reference_is_the_same():
    found = verdict()
    assert (found.verdict, found.difference, found.merged_difference) == ("same", 0, 0)
    assert (found.details, found.exit_code) == ((), 0)


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
    found = verdict(changed(outputs=outputs, merged=None), reference=without_merge())
    assert found.verdict == expected
    assert found.difference == (difference and pytest.approx(difference, rel=1e-3))


def without_merge():
    adapter = changed(merged=None, merge_problem="cannot")
    return Seen(packages={}, base=BASE, adapter=adapter)


def test_outputs_that_are_not_numbers_or_differ_from_zero_have_no_difference():
    found = verdict(changed(is_finite=False))
    assert (found.verdict, found.difference) == ("other_output", None)
    assert found.details == ("its output is NaN or infinite",)
    nothing = changed(outputs=[[0.0]], merged=[[0.0]])
    base = msgspec.structs.replace(BASE, outputs=[[1.0]])
    reference = Seen(packages={}, base=base, adapter=nothing)
    assert verdict(nothing, base, reference).verdict == "same"
    other = verdict(changed(outputs=[[1e-30]]), base, reference)
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
    found = verdict(base=msgspec.structs.replace(BASE, **base))
    assert (found.verdict, found.exit_code) == ("incomparable", 3)
    assert problem in found.details[0]


@pytest.mark.parametrize(
    ("change", "expected"), [(0.0, "incomparable"), (2.9e-4, "incomparable"), (3.1e-4, "same")]
)
def test_an_adapter_whose_change_cannot_be_seen_is_incomparable(change, expected):
    outputs = [[1.0, 2.0 * (1 + change)], [1.0]]
    adapter = changed(outputs=outputs, merged=outputs)
    reference = Seen(packages={}, base=BASE, adapter=adapter)
    assert verdict(adapter, reference=reference).verdict == expected
    otherwise = msgspec.structs.replace(adapter, missing_keys=["always", "k"])
    found = verdict(otherwise, reference=reference)
    assert found.verdict == ("incomparable" if expected == "incomparable" else "loads_otherwise")
    assert found.details[-1] == "the file lacks 1 tensor: k"
    moved = msgspec.structs.replace(adapter, outputs=[[1.0, 2.5], [1.0]])
    assert verdict(moved, reference=reference).verdict == "other_output"


OFF = [[1.0, -2.2], [0.01]]


def test_a_merge_must_give_what_the_reference_computes_before_it():
    found = verdict(changed(merged=OFF))
    assert (found.verdict, found.merged_difference) == ("other_output", pytest.approx(0.1))
    assert found.details == ("merged, it computes something else, by 0.1 of the largest output",)
    assert verdict(changed(merged=[])).verdict == "other_output"


def test_a_merge_that_is_wrong_in_the_reference_too_is_not_held_against_a_release():
    reference = Seen(packages={}, base=BASE, adapter=changed(merged=OFF))
    found = verdict(changed(merged=OFF), reference=reference)
    assert (found.verdict, len(found.details)) == ("same", 1)
    assert "as in the reference" in found.details[0]
    assert verdict(reference=reference).details == ()


def test_no_merge_breaks_only_where_the_reference_merges():
    refusing = changed(merged=None, merge_problem="NotImplementedError: groups")
    found = verdict(refusing)
    assert (found.verdict, found.exit_code) == ("no_merge", 1)
    assert found.details == ("does not merge: NotImplementedError: groups",)
    assert verdict(refusing, reference=without_merge()).verdict == "same"
    later = verdict(changed(merged=OFF), reference=without_merge())
    assert later.verdict == "same"
    assert "the reference cannot merge" in later.details[0]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"missing_keys": ["always", "k"]}, "the file lacks 1 tensor: k"),
        ({"unexpected_keys": ["k"]}, "does not use 1 tensor: k"),
        ({"altered_keys": ["k", "l"]}, "changes the numbers of 2 tensors: k, l"),
        ({"unknown_fields": ["usual", "use_x"]}, "ignores the settings use_x"),
        ({"changed_fields": {"r": ("4", "8")}}, "reads r = 4 as 8"),
        ({"trainable": ["a", "b", "c"]}, "trains 1 more parameter: c"),
        ({"trainable": ["a"]}, "does not train 1 parameter: b"),
        ({"trainable_for_inference": ["a"]}, "loaded for inference, trains a"),
        ({"training_problem": "no"}, "does not load to train on: no"),
    ],
)
def test_a_difference_without_another_output_is_told_and_breaks_nothing(values, words):
    found = verdict(changed(**values))
    assert (found.verdict, found.details, found.exit_code) == ("loads_otherwise", (words,), 0)


@pytest.mark.parametrize(
    "values", [{"unknown_fields": ["known", "usual", "peft_version"]}, {"missing_keys": []}]
)
def test_what_the_reference_does_too_and_fields_at_their_default_are_no_difference(values):
    assert verdict(changed(**values)).verdict == "same"


def test_the_tolerance_is_that_of_stored_outputs():
    from peft_regress.measure.invariants.outputs import STORED_TOLERANCE

    assert TOLERANCE == STORED_TOLERANCE
