"""A script in float64: what it tells apart, and where there is none."""

import msgspec
import pytest
import torch
from builders import make_run
from msgspec import UNSET
from watched_scripts import LOOP

from peft_regress import Script
from peft_regress.gate.judge import judge
from peft_regress.gate.repeats import curves_of
from peft_regress.gate.verdicts import observations_of
from peft_regress.measure.scripts import script_case
from peft_regress.runs.environment import describe_machine

ID = "scripts/head/convnet"
THERE = msgspec.structs.replace(describe_machine(), digest="sha256:there")


@pytest.fixture
def measured(watch, monkeypatch, tmp_path):
    """Return a function that measures a script from its text, by a reference of elsewhere."""

    def measure(text, known=None, machine=THERE):
        asked = []

        def watched(_, *, nudge, steps, until, float64=False, **__):
            asked.append(float64)
            return watch(text, nudge=nudge, float64=float64, steps=steps, until=until)

        monkeypatch.setattr(script_case, "watch_script", watched)
        recipe = script_case.ScriptRecipe(Script(ID, "train.py"), tmp_path)
        curves = [] if known is None else curves_of(observed(known, machine))
        record = recipe.measure(has_reference=True, known=curves, keep_referee=True)
        measure.runs_in_float64 = sum(asked)
        return record

    return measure


def observed(record, machine=None):
    return observations_of(make_run(record, machine=machine or describe_machine()), "known")[ID]


@pytest.fixture
def kept(measured):
    return measured(LOOP)


def verdict(known, record):
    (case,) = judge({ID: observed(known, THERE)}, {ID: observed(record)}).cases
    kinds = [one.kind for one in case.remarks if one.subject == "training"]
    return case.verdict, [one.name for one in case.reasons], kinds


def test_a_script_that_nothing_knows_keeps_its_referee(kept, measured):
    found = kept.referee
    assert measured.runs_in_float64 == 2
    assert [len(one) for one in (found.losses, found.gradients, found.moved)] == [4, 4, 5]
    assert all(loss != float(torch.tensor(loss)) for loss in found.losses)
    assert found.moved[-1] < 1e-8


def test_it_runs_in_float64_only_where_its_losses_are_not_the_known_ones(kept, measured):
    at_home = measured(LOOP, kept, describe_machine())
    assert (measured.runs_in_float64, at_home.referee) == (0, UNSET)
    elsewhere = measured(LOOP, kept)
    assert (measured.runs_in_float64, elsewhere.referee) == (1, kept.referee)
    verdict_, reasons, kinds = verdict(kept, elsewhere)
    assert (verdict_, reasons, kinds[0]) == ("unchanged", [], "rounding only")


SCALED = """
criterion, factors = loss_of, [1.0, 1.0, FACTOR, FACTOR]
def loss_of(x, y):
    return criterion(x, y) * factors.pop(0)
"""


def test_a_change_that_no_bound_sees_is_seen_at_its_step(measured):
    def text(factor):
        return SCALED.replace("FACTOR", factor) + LOOP

    kept = measured(text("1.0"))
    found, reasons, _ = verdict(kept, measured(text("1.0000001"), kept))
    assert (found, reasons) == ("regressed", ["curve"])


IN_HALF = "net.bfloat16()\ndata.tensors = (data.tensors[0].bfloat16(), data.tensors[1])\n"
REFUSING = "if torch.get_default_dtype() == torch.float64: raise TypeError('no float64')\n"


@pytest.mark.parametrize(("added", "why"), [(IN_HALF, "bfloat16"), (REFUSING, "no float64")])
def test_without_one_the_record_says_why(measured, added, why):
    assert why in measured(added + LOOP).referee


@pytest.mark.parametrize(
    ("added", "why"),
    [
        ("", ""),
        ("data.tensors = (data.tensors[0] + 1, data.tensors[1])\n", "it has another first batch"),
        ("net.append(nn.Linear(3, 3))\n", "is only in one, or has another shape"),
    ],
)
def test_a_script_begins_as_another_run_only_with_the_same_tensors(watch, tmp_path, added, why):
    how = {"float64": True, "kept_start": str(tmp_path / "start")}
    assert watch(LOOP, **how).less_precision == ""
    assert watch(added + LOOP, **how).less_precision[-len(why) or None :] == why
