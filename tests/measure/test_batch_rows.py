"""What a record says of the batches that went into a training."""

import pytest
import torch
from builders import observe
from msgspec import UNSET
from own_training import fine_tune, image_data, measured
from torch import nn

from peft_regress.gate import judge_case
from peft_regress.measure.inputs import BatchSums, summaries_of


def rows_of(*tensors):
    sums = BatchSums(rows=True)
    for tensor in tensors:
        sums.add(tensor)
    return sums.summaries()[""].rows


BATCH = torch.linspace(-1, 1, 3 * 2 * 4).reshape(3, 2, 4)


def test_each_row_of_the_first_batch_has_a_number_that_its_order_decides():
    rows = rows_of(BATCH)
    assert len(set(rows)) == 3
    assert rows_of(BATCH.flip(0)) == rows[::-1]
    assert rows_of(BATCH, 2 * BATCH) == rows
    within = BATCH.clone()
    within[1] = within[1].flip(1)
    assert [a == b for a, b in zip(rows, rows_of(within), strict=True)] == [True, False, True]


@pytest.mark.parametrize(
    ("batch", "count"),
    [
        (torch.arange(70), 64),
        (torch.tensor([[True, False], [False, True]]), 2),
        (torch.tensor([[0.0, -torch.inf], [torch.nan, 1.0]]), 2),
        (BATCH.to(torch.complex64), 3),
        (BATCH.to(torch.bfloat16), 3),
        (torch.zeros(0, 4), 0),
        (torch.zeros(2, 0), 2),
    ],
)
def test_rows_of_any_type_have_finite_numbers_and_at_most_64(batch, count):
    before = batch.clone()
    rows = rows_of(batch)
    assert len(rows) == count
    assert torch.isfinite(torch.tensor(rows)).all()
    assert torch.equal(batch.nan_to_num(), before.nan_to_num())


def test_numbers_draw_nothing_from_the_global_generator_and_weights_have_none():
    torch.manual_seed(0)
    first = torch.rand(1)
    torch.manual_seed(0)
    rows_of(BATCH)
    assert torch.rand(1) == first
    assert summaries_of(nn.Linear(2, 2))["weight"].rows is UNSET


def test_changed_labels_of_an_own_case_are_told_with_their_rows():
    def mislabelled():
        (images, labels), test = image_data()
        return (images, 2 - labels), test

    old, new = (
        measured(fine_tune("head", data=data, also_train=["8"]), timed=False)
        for data in (image_data, mislabelled)
    )
    assert [len(one["1"].rows) for one in (old.inputs.train, old.inputs.test)] == [4, 4]
    (reason,) = (
        one for one in judge_case(old.case.id, *map(observe, (old, new))).reasons
        if one.kind == "inputs"
    )  # fmt: skip
    assert reason.new.startswith("in the first training batch, labels differ in ")
    assert "of 4 rows; inputs are equal" in reason.new
