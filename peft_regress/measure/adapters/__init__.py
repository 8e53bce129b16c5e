"""What a case puts on its model: a built-in method, a configuration of peft, or a callable."""

from peft_regress import registry
from peft_regress.cases import split_adapter_name
from peft_regress.catalogue.matrix import check_rank
from peft_regress.errors import InputError
from peft_regress.fine_tune import FineTune
from peft_regress.measure.adapters.adapter import Adapter, CallableAdapter, MethodAdapter
from peft_regress.measure.adapters.peft_config import ConfigAdapter

__all__ = ["Adapter", "adapter_of"]


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
                f"{given!r} brings an optimizer of its own; leave out optimizer=, or use another "
                "method"
            )
        return MethodAdapter(method=method, rank=rank, heads=heads)
    if hasattr(given, "peft_type"):
        return ConfigAdapter(config=given, heads=heads)
    return CallableAdapter(wrap=given, heads=heads)
