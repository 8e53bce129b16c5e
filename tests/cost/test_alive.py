"""The peak of code that runs for real."""

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import is_in_torch_dispatch_mode

from peft_regress.cost.storages import peak_while

FLOAT = 4
MODEL, BATCH = nn.Linear(10, 10), torch.ones(3, 10)
HELD = (100 + 10) * FLOAT


def peak_of(action):
    return peak_while(action, MODEL)[1]


@torch.inference_mode()
def chain(count):
    """Return a tensor of 1,000 numbers; while it is made, at most two are alive."""
    found = torch.zeros(1000)
    for _ in range(count):
        found = found + 1
    return found


@pytest.mark.parametrize(
    ("action", "numbers"),
    [
        (lambda: None, 0),
        (lambda: chain(0), 1000),
        # What existed before counts from its use on.
        (lambda: MODEL(BATCH), 3 * 10 + 3 * 10),
        (lambda: chain(5), 2000),
        (lambda: [chain(5) for _ in range(3)], 4000),
        # A view and an operator in place hold nothing of their own; one that grows is followed.
        (lambda: torch.zeros(1000).view(10, 100).add_(1)[3], 1000),
        (lambda: torch.zeros(1).resize_(500), 500),
        # A sparse one holds its numbers, and two indices of 8 bytes for each.
        (lambda: torch.ones(3, 3).to_sparse(), 9 + 9 + 9 * 2 * 2),
    ],
)
def test_the_peak_is_of_one_moment_and_has_the_model(action, numbers):
    assert peak_of(action) == HELD + numbers * FLOAT


def test_code_that_cannot_be_watched_runs_without():
    def shy():
        if is_in_torch_dispatch_mode():
            raise RuntimeError("watched")
        return "done"

    assert peak_while(shy, MODEL) == ("done", None)
    assert peak_of(lambda: torch.ones(4, 4).to_sparse_bsr((2, 2)).to_dense()) is None


def test_what_torch_compiles_stays_compiled():
    """Under another mode torch would run it eagerly, from then on."""
    compiled = []

    def backend(graph, _):
        compiled.append(graph)
        return graph.forward

    doubled = torch.compile(lambda x: x * 2 + 1, backend=backend)
    found, peak = peak_while(lambda: doubled(torch.ones(1000)), MODEL)
    assert len(compiled) == 1
    assert peak is not None
    assert torch.equal(found, doubled(torch.ones(1000)))
