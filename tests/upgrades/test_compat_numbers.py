"""Which numbers of an output are compared: in a large one each still counts."""

from __future__ import annotations

import json

import pytest
import torch

from peft_regress.upgrades.compat.numbers import is_finite, numbers_of, outputs_of


def large(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def rows(returned):
    return [torch.tensor(row) for row in numbers_of(outputs_of(returned))]


def test_every_tensor_has_a_row_and_a_small_one_all_its_numbers():
    returned = {"a": torch.ones(3, 2), "more": (large(5000), torch.arange(4), [torch.zeros(1)])}
    assert [len(row) for row in rows(returned)] == [6, 4096, 1]
    assert [len(row) for row in rows(large(4096))] == [4096]


def test_a_complex_output_counts_by_both_parts():
    assert rows(torch.tensor([1 + 2j, 3]).conj())[0].tolist() == [1, -2, 3, 0]


@pytest.mark.parametrize("place", [0, 1, 4097, 99_999])
def test_a_large_output_that_differs_in_one_place_differs_in_its_numbers(place):
    one = large(100, 1000)
    other = one.clone()
    other.view(-1)[place] += 0.01 * float(one.abs().max())
    (first,), (second,) = rows(one), rows(other)
    assert (first - second).abs().max() > 1e-3 * first.abs().max()


def test_a_large_output_that_differs_everywhere_differs_by_as_much():
    one = large(100, 1000)
    noise = one.roll(1)
    (first,), (second,) = rows(one), rows(one + 1e-6 * noise)
    assert 1e-7 < (first - second).abs().max() / first.abs().max() < 3e-6
    assert rows(one)[0].equal(first)


def test_the_largest_number_of_a_large_output_is_kept():
    one = large(10_000)
    one[1234] = -1e6
    assert rows(one)[0].min() == -1e6


def test_infinities_are_told_and_never_written():
    outputs = outputs_of(large(10_000) / 0)
    assert not is_finite(outputs)
    assert json.dumps(numbers_of(outputs), allow_nan=False)
