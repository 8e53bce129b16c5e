"""The faults that the gate is tried with, a module a topic."""

from fault_catalogue import (  # noqa: F401  (each adds its own)
    adapter_paths,
    adapters,
    adapters_in_use,
    costs,
    language_models,
    later_steps,
    lora,
    optimizers,
    training,
)
from fault_catalogue.fault import AREAS, FAULTS, Area, Fault

__all__ = ["AREAS", "FAULTS", "Area", "Fault"]
