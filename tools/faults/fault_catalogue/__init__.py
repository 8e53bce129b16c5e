"""The faults that the gate is tried with, a module a topic."""

from typing import Final

from fault_catalogue import (
    adapter_paths,
    adapters,
    adapters_in_use,
    costs,
    later_steps,
    lora,
    optimizers,
    training,
)
from fault_catalogue.fault import AREAS, Area, Fault

__all__ = ["AREAS", "FAULTS", "Area", "Fault"]

_MODULES: Final = (
    *(lora, adapters, adapters_in_use, adapter_paths),
    *(optimizers, training, costs, later_steps),
)

FAULTS: Final[dict[str, Fault]] = {
    found.name: found
    for module in _MODULES
    for found in vars(module).values()
    if isinstance(found, Fault)
}
