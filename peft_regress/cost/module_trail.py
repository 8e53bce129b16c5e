"""Find the module that an operator works for, in the forward and in the backward pass.

Autograd numbers the nodes of its graph in the order of their creation. The forward pass notes the
number whenever control passes from one module to another. A node of the backward pass then belongs
to the module that was running at its number. The graph gets no hooks: backward hooks of modules
insert views and change the measurement.
"""

from bisect import bisect_right
from typing import Any

import torch
from torch import nn
from torch.utils.hooks import RemovableHandle

_PEFT_PREFIX = "base_model.model"


def module_names(model: nn.Module) -> dict[nn.Module, str]:
    """Name every module as `named_modules` does, without the prefix that peft adds.

    So a layer has one name under every method: 'layer1.0.conv1', wrapped or not. The model itself
    and peft's wrappers around it are ''.
    """
    names = {}
    # By its class: a submodule of the model's own may have the same name.
    wrapped = any(kind.__module__.partition(".")[0] == "peft" for kind in type(model).__mro__)
    for name, module in model.named_modules():
        is_wrapper = wrapped and name in {"base_model", _PEFT_PREFIX}
        prefix = _PEFT_PREFIX + "." if wrapped else ""
        names[module] = "" if is_wrapper else name.removeprefix(prefix)
    return names


class ModuleTrail:
    """The modules that run, and from which of autograd's node numbers on each one runs."""

    def __init__(self) -> None:
        self._stack: list[str] = []
        self._starts: list[int] = []
        self._owners: list[str] = []
        self._handles: list[RemovableHandle] = []

    def follow(self, names: dict[nn.Module, str]) -> None:
        """Follow the calls of these modules until `clear`."""
        for module, name in names.items():

            def enter(_module: nn.Module, _args: object, name: str = name) -> None:
                self.enter(name)

            # First in and last out: what other hooks compute counts for the module. `always_call`
            # since checkpointing leaves a module by an exception once it has computed enough.
            self._handles.append(module.register_forward_pre_hook(enter, prepend=True))
            self._handles.append(module.register_forward_hook(self.leave, always_call=True))

    def enter(self, name: str) -> None:
        """Note that a module runs from now on."""
        self._stack.append(name)
        self._note(name)

    def leave(self, *_: object) -> None:
        """Note that the module entered last has run."""
        self._stack.pop()
        self._note(self.current())

    def current(self) -> str:
        """Return the name of the module whose forward pass is running; '' outside any."""
        return self._stack[-1] if self._stack else ""

    def clear_nodes(self) -> None:
        """Drop the nodes of the last step."""
        self._starts.clear()
        self._owners.clear()

    def clear(self) -> None:
        """Remove the hooks from the modules."""
        for handle in self._handles:
            handle.remove()
        self._handles.clear()
        self._stack.clear()
        self.clear_nodes()

    def owner(self, node: Any) -> str:
        """Return the name of the module that made a node of the backward graph; '' if none did."""
        index = bisect_right(self._starts, node._sequence_nr()) - 1  # noqa: SLF001
        return self._owners[index] if index >= 0 else ""

    def _note(self, name: str) -> None:
        self._starts.append(torch._C._autograd._get_sequence_nr())  # noqa: SLF001
        self._owners.append(name)
