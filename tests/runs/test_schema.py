"""The values in a run file: what does not fit, digests, finite numbers, budgets."""

import contextlib
import json

import msgspec
import pytest
from builders import DATE, LORA, make_record, make_run, repeating, trained
from hypothesis import strategies as st
from strategies import fuzz

from peft_regress.errors import InputError
from peft_regress.project.budgets import Budget
from peft_regress.runs import schema
from peft_regress.runs.run_file import dump_json


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
            make_record("a/b/c"), {"repeats": {LORA: "0001"}, "retired": [LORA]},
            f"case {LORA} cannot be retired by a run that has it",
        ),
    ],
)  # fmt: skip
def test_an_entry_judges_and_confirms_what_all_seeds_trained(record, keys, problem):
    given = {"reason": "r", "date": DATE, "role": "baseline", "entry": "Linux/0001_x", **keys}
    run = make_run(record, accepted=schema.Acceptance(**given))
    with contextlib.nullcontext() if problem is None else pytest.raises(InputError, match=problem):
        schema.check_acceptance(run)


@pytest.mark.parametrize(
    ("budget", "limits"),
    [
        (
            {"peak": "256 MiB", "update": "2 GFLOP", "ship": "500 kB", "score": 1},
            {"peak": 2**28, "update": 2 * 10**9, "ship": 500_000, "score": 1.0},
        ),
        ({"edge_train": "1 MB", "device": "board"}, {"edge_train": 10**6, "device": "board"}),
        ({"of": "toy/full/net", "peak_b32_of": 2}, {"of": "toy/full/net", "peak_b32_of": 2.0}),
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


@fuzz(
    json_values,
    st.dictionaries(st.integers(), st.text(min_size=60), min_size=3, max_size=5),
    examples=300,
)
def test_formatted_json_is_the_same_json(value, numbered):
    """pytest-benchmark's part may hold a user's `extra_info` with whole numbers as keys."""
    assert json.loads(dump_json(value)) == value
    assert dump_json(value).isascii()
    assert json.loads(dump_json(numbered)) == {str(key): text for key, text in numbered.items()}
    text = dump_json({"short": [1, 2, 3], "long": list(range(100))})
    assert '"short": [1, 2, 3],\n' in text
    assert max(map(len, text.splitlines())) <= 140
