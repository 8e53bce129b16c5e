"""Make the adapter of a fine-tuning from what its author gave."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peft_regress import registry
from peft_regress.cases import split_adapter_name
from peft_regress.catalogue.matrix import check_rank
from peft_regress.errors import InputError
from peft_regress.fine_tune import FineTune
from peft_regress.measure.adapters.built_in_method import MethodAdapter
from peft_regress.measure.adapters.own_callable import CallableAdapter
from peft_regress.measure.adapters.peft_config import ConfigAdapter
from peft_regress.metrics import Numerics

if TYPE_CHECKING:
    from peft_regress.measure.adapters.protocol import Adapter


def adapter_of(fine_tune: FineTune) -> Adapter:
    """Return the adapter of a fine-tuning.

    Raises `InputError` for the name of no method, a wrong rank, or an optimizer beside a method
    that brings its own.
    """
    given, heads = fine_tune.adapter, tuple(fine_tune.also_train)
    if isinstance(given, str):
        name, rank = split_adapter_name(given)
        method = registry.get("method", name)
        check_rank(name, rank)
        if fine_tune.optimizer is not None and method.has_own_optimizer:
            raise InputError(
                f"FineTune {fine_tune.id!r}: {given!r} brings an optimizer of its own; leave out "
                "optimizer=, or use another method"
            )
        return MethodAdapter(method=method, rank=rank, heads=heads)
    if hasattr(given, "peft_type"):
        numerics: Numerics = "hra" if type(given).__name__ == "HRAConfig" else "usual"
        return ConfigAdapter(config=given, heads=heads, numerics=numerics)
    return CallableAdapter(wrap=given, heads=heads)
