"""The faults that the gate is tried with, a module an area."""

from typing import Final

from fault_catalogue import (
    base_model,
    batch_norm,
    counting,
    data,
    dora,
    galore,
    lora,
    memory,
    optimizers,
    other_adapters,
    serialisation,
    several_adapters,
    some_cases,
    some_steps,
    training_loop,
)
from fault_catalogue.fault import AREAS, Area, Fault

__all__ = ["AREAS", "FAULTS", "Area", "Fault"]

_MODULES: Final = (
    lora,
    dora,
    galore,
    other_adapters,
    several_adapters,
    optimizers,
    data,
    training_loop,
    batch_norm,
    base_model,
    counting,
    serialisation,
    memory,
    some_steps,
    some_cases,
)

FAULTS: Final[dict[str, Fault]] = {
    found.name: found
    for module in _MODULES
    for found in vars(module).values()
    if isinstance(found, Fault)
}
