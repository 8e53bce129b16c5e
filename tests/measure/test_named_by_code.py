"""What the code of a training can reach by name."""

from __future__ import annotations

import distributed
import torch

from peft_regress.measure.computation.named import places_of


def of_torch() -> bool:
    return torch.distributed.is_available() and torch.distributed.get_client is None


def test_torch_s_distributed_is_not_dask_s() -> None:
    assert "distributed" in of_torch.__code__.co_names
    scopes = [place.scope for place in places_of(of_torch)]
    assert not any(scope is vars(distributed) for scope in scopes)
