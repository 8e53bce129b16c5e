"""The values in a run file: what does not fit, digests, finite numbers, budgets."""

import json

import msgspec
import pytest
from builders import LORA, make_case, make_record, make_run, repeating, trained
from hypothesis import given, settings
from hypothesis import strategies as st

from peft_regress.cases import Adaptation, Case
from peft_regress.errors import InputError
from peft_regress.project.budgets import Budget
from peft_regress.runs import schema
from peft_regress.runs.run_file import dump_json

DATE = "2026-01-01T00:00:00+00:00"


def accepted(**keys):
    given = {"reason": "r", "date": DATE, "role": "baseline", "entry": "Linux/0001_x", **keys}
    return schema.Acceptance(**given)


def test_an_id_has_a_rank_where_the_method_has_one_and_an_adaptation_no_task():
    case = Case(task="shift", method="lora", architecture="resnet18", rank=4)
    assert case.id == "shift/lora-r4/resnet18"
    assert Case(task="shift", method="full", architecture="resnet18").id == "shift/full/resnet18"
    assert case.adaptation == make_case("unseen/lora-r4/resnet18").adaptation
    assert case.adaptation == Adaptation(method="lora", architecture="resnet18", rank=4)


def test_a_content_digest_covers_the_acceptance_and_not_itself():
    run = make_run()
    assert schema.content_digest(
        msgspec.structs.replace(run, content_digest="x")
    ) == schema.content_digest(run)
    promoted = msgspec.structs.replace(run, accepted=accepted())
    assert schema.content_digest(promoted) != schema.content_digest(run)


def test_a_case_that_repeats_another_run_has_a_curve():
    schema.check_consistent(repeating(trained()), "here")
    with pytest.raises(InputError, match="here: repeats '0001' without a curve"):
        schema.check_consistent(repeating(make_record(), by="0001"), "here")


@pytest.mark.parametrize(
    ("record", "keys", "problem"),
    [
        (repeating(trained()), {}, f"case {LORA} has no score of all seeds, so it cannot judge"),
        (repeating(trained()), {"role": "history"}, None),
        (make_record(), {"role": "history", "repeats": {LORA: "0001"}}, "confirms no case"),
        (make_record("a/b/c"), {"repeats": {LORA: "0001"}}, None),
        (
            make_record("a/b/c"),
            {"repeats": {LORA: "0001"}, "retired": [LORA]},
            f"case {LORA} cannot be retired by a run that has it",
        ),
    ],
)
def test_an_entry_judges_and_confirms_what_all_seeds_trained(record, keys, problem):
    run = make_run(record, accepted=accepted(**keys))
    if problem is None:
        schema.check_acceptance(run)
    else:
        with pytest.raises(InputError, match=problem):
            schema.check_acceptance(run)


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        (
            {"peak": "256 MiB", "update": "2 GFLOP", "ship": "500 kB", "score": 1},
            {"peak": 2**28, "update": 2 * 10**9, "ship": 500_000, "score": 1.0},
        ),
        ({"edge_train": "1 MB", "device": "board"}, {"edge_train": 10**6, "device": "board"}),
        (
            {"of": "toy/full/net", "peak_of": 0.85, "peak_b32_of": 2, "update_of": 1},
            {"of": "toy/full/net", "peak_of": 0.85, "peak_b32_of": 2.0, "update_of": 1.0},
        ),
        ({}, {}),
    ],
)
def test_a_budget_becomes_numbers(budget, limits):
    assert msgspec.to_builtins(Budget(**budget)) == limits
    assert msgspec.convert(limits, Budget) == Budget(**budget)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"of": "toy/full/net"}, "budget of='toy/full/net' limits nothing: add a share, such as"),
        ({"peak_of": 0.85}, "budget peak_of=0.85 is of no case: name it, as in of='digits/full"),
        ({"score": 10**400}, "is not a number below"),
        ({"peak": "1e30 MiB"}, "budget peak='1e30 MiB' is too large"),
        ({"of": "toy/full/net", "ship_of": 10**400}, "is not a share"),
        ({"of": "toy/full/net", "ship_of": 0}, "budget ship_of=0 is not a share, such as 0.85"),
        ({"of": "toy/full/net", "ship_of": "85 %"}, "budget ship_of='85 %' is not a share"),
        ({"of": "toy/full/net", "update_of": float("inf")}, "update_of=inf is not a share"),
        ({"of": "full", "peak_of": 0.85}, "budget of='full' is not a case id, which has the form"),
        ({"of": 3, "peak_of": 0.85}, "budget of=3 is not a case id"),
    ],
)
def test_a_share_that_is_none_or_of_no_case_is_refused(parts, message):
    with pytest.raises(InputError) as raised:
        Budget(**parts)
    assert message in str(raised.value)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=40,
)  # fmt: skip


@settings(deadline=None, derandomize=True, max_examples=60)
@given(json_values, st.dictionaries(st.integers(), st.text(min_size=60), min_size=3, max_size=5))
def test_formatted_json_is_the_same_json(value, numbered):
    """pytest-benchmark's part may hold a user's `extra_info` with whole numbers as keys."""
    assert json.loads(dump_json(value)) == value
    assert dump_json(value).isascii()
    assert json.loads(dump_json(numbered)) == {str(key): text for key, text in numbered.items()}


def test_formatted_json_breaks_what_is_long_and_only_that():
    text = dump_json({"short": [1, 2, 3], "long": list(range(100))})
    assert '"short": [1, 2, 3],\n' in text
    assert max(map(len, text.splitlines())) <= 140
