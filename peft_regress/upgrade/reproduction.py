"""Write the script that shows a library's maintainers what moved, without this project.

It needs torch, torchvision and the library alone, runs on peft 0.10 to 0.21, and prints a fact a
line, so that two releases are told apart by a plain diff. No torch at import.
"""

from __future__ import annotations

from textwrap import indent
from typing import TYPE_CHECKING, Final

from peft_regress import registry
from peft_regress.architectures.torchvision_models import TorchvisionModel
from peft_regress.errors import UnknownNameError
from peft_regress.methods import GaLore, PeftAdapter
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.upgrade import reproduction_sections as sections
from peft_regress.upgrade.reproduction_methods import Network, adapting, filling, package_of
from peft_regress.upgrade.reproduction_sections import fill_in

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from peft_regress.methods import Method
    from peft_regress.records import Case

__all__ = ["FACTS", "facts_for", "reproduction_script"]

FACTS: Final = (
    "trainable_params",
    "forward_flops",
    "backward_flops",
    "saved_for_backward_bytes",
    "aten_ops",
    "identity_at_start",
    "filled_loss",
    "merged_equals_unmerged",
    "optimizer_state_bytes",
    "loss_after_step",
)
"""What a script can print. The last two are GaLore's alone, the three before them an adapter's."""

_OF_A_STEP: Final = frozenset(FACTS[1:5])
_OF_AN_ADAPTER: Final = frozenset(FACTS[5:8])
_OF_GALORE: Final = frozenset(FACTS[8:])
_OF_VALUES: Final = _OF_AN_ADAPTER | {"loss_after_step"}

_LINE_LENGTH: Final = 100
_DEFINITION: Final = ("def ", "class ", "@")

# Facts that show what moved a metric or an invariant, for whichever method they apply to.
_FUNCTION: Final = ("identity_at_start", "filled_loss", "loss_after_step")
_FACTS_OF: Final[dict[str, tuple[str, ...]]] = {
    "trainable_params": ("trainable_params",),
    "total_params": ("trainable_params",),
    "adapter_bytes": ("trainable_params",),
    "expected_trainable": ("trainable_params",),
    "forward_flops": ("forward_flops",),
    "backward_flops": ("backward_flops",),
    "peak_bytes": ("saved_for_backward_bytes", "optimizer_state_bytes"),
    "peak_activation_bytes": ("saved_for_backward_bytes",),
    "peak_temp_bytes": ("saved_for_backward_bytes",),
    "category_sum_bytes": ("saved_for_backward_bytes", "optimizer_state_bytes"),
    "peak_optimizer_bytes": ("optimizer_state_bytes",),
    "optimizer_state_bytes": ("optimizer_state_bytes",),
    "aten_ops": ("aten_ops",),
    "first_losses": _FUNCTION,
    "accuracy": _FUNCTION,
    "loss": _FUNCTION,
    "filled_losses": ("filled_loss",),
    "identity_at_init": ("identity_at_start",),
    "merge_equals_unmerged": ("merged_equals_unmerged",),
}

# By what tells that they are used; the standard library's come first.
_IMPORTS: Final[tuple[dict[str, str], ...]] = (
    {
        "contextlib.": "import contextlib",
        "copy.": "import copy",
        "math.": "import math",
        "re.escape(": "import re",
        "metadata.": "from importlib import metadata",
    },
    {
        "torch.": "import torch",
        "torchvision.": "import torchvision",
        "nn.": "from torch import nn",
        "saved_tensors_hooks(": "from torch.autograd.graph import saved_tensors_hooks",
        "functional.": "from torch.nn import functional",
        "TorchDispatchMode": "from torch.utils._python_dispatch import TorchDispatchMode",
        "FlopCounterMode": "from torch.utils.flop_counter import FlopCounterMode",
    },
)


def facts_for(moved: Iterable[str]) -> frozenset[str]:
    """Return the facts that show a change of these metrics and invariants, for any method."""
    return frozenset(
        fact for name in moved for fact in _FACTS_OF.get(name.removesuffix(BATCH_SUFFIX), ())
    )


def reproduction_script(case: Case, *, facts: Collection[str] | None = None) -> str | None:
    """Return a script that adapts what a case adapts and prints `FACTS` of it; None without one.

    With `facts` it prints those that apply to the method, and leaves out what they do not need;
    with none of them it does no more than to adapt the model, and GaLore's to take a step. Where
    the library raises, it prints `error: <type>: <first line> (<phase>)` and ends there; phases are
    wrap, forward, backward, step and merge.

    There is no script for an architecture that is not torchvision's, since the script would have to
    bring it along; for a method that is no plain `PeftAdapter`, `Selective` or `GaLore`, or wraps
    in a context of its own, since nothing here knows what it does; and where the architecture has
    no layer for the method. The task is left out: the images are noise, and no fact is an accuracy.
    Raises `UnknownNameError` for a name that nothing registers, and for one that is no fact.
    """
    method: Method = registry.get("method", case.method)
    architecture = registry.get("architecture", case.architecture)
    wanted = set(FACTS if facts is None else facts)
    for unknown in sorted(wanted.difference(FACTS)):
        kind = "fact"
        raise UnknownNameError(kind, unknown, FACTS)
    if type(architecture) is not TorchvisionModel:
        return None
    network = Network.of(architecture)
    code = adapting(method, case.rank, network)
    if code is None:
        return None
    if not isinstance(method, PeftAdapter):
        wanted -= _OF_AN_ADAPTER
    if not isinstance(method, GaLore):
        wanted -= _OF_GALORE
    body = _joined(_parts(method, network, code, wanted))
    ranked = case.method if case.rank is None else f"{case.method}-r{case.rank}"
    header = fill_in(sections.HEADER, TITLE=f"{ranked} on {case.architecture}")
    return "\n".join([header, *_imports(body), body])


def _parts(method: Method, network: Network, code: str, wanted: Collection[str]) -> Iterator[str]:
    """Yield the script after its imports, in pieces that a blank line sets apart."""
    yield from _model(method, network, wanted)
    yield code
    yield from _at_start(method, wanted)
    yield from _cost(method, network, wanted)
    if isinstance(method, GaLore):
        yield from _of_galore(wanted)
    if isinstance(method, PeftAdapter):
        yield from _of_adapter(method, network.head, wanted)


def _model(method: Method, network: Network, wanted: Collection[str]) -> Iterator[str]:
    """Yield what comes before the method: versions, the model, its output as it stands."""
    packages = [*filter(None, [package_of(method)]), "torch", "torchvision"]
    yield fill_in(sections.VERSIONS, PACKAGES=", ".join(f'"{name}"' for name in packages))
    options = (f", {name}={value!r}" for name, value in network.architecture.options.items())
    yield fill_in(sections.BUILD, ARCHITECTURE=network.architecture.name, OPTIONS="".join(options))
    if network.has_batch_norm and not _OF_VALUES.isdisjoint(wanted):
        yield sections.STATISTICS
    if method.base_dtype == "bfloat16":
        yield sections.BFLOAT16
    if not _OF_AN_ADAPTER.isdisjoint(wanted):
        yield fill_in(sections.LOGITS, CALL=sections.LOGITS_IN[method.base_dtype])
    if not {"identity_at_start", "filled_loss"}.isdisjoint(wanted):
        yield sections.OF_BASE


def _at_start(method: Method, wanted: Collection[str]) -> Iterator[str]:
    """Yield what is seen of an adapted model before anything is done with it."""
    from peft_regress.invariants.outputs import IDENTITY_TOLERANCE  # imports torch

    if "trainable_params" in wanted:
        yield sections.TRAINABLE_PARAMS
    if "identity_at_start" in wanted:
        tolerance = IDENTITY_TOLERANCE[method.base_dtype]
        yield fill_in(sections.IDENTITY_AT_START, TOLERANCE=repr(tolerance))


def _cost(method: Method, network: Network, wanted: Collection[str]) -> Iterator[str]:
    """Yield one step, as far as it is needed, under whatever counts what is wanted of it."""
    if "saved_for_backward_bytes" in wanted:
        yield sections.SAVED
    if "aten_ops" in wanted:
        yield sections.OPERATORS
    steps = isinstance(method, GaLore)
    if steps or not _OF_A_STEP.isdisjoint(wanted):
        forward = _under("forward", _counters(wanted, "forward"), sections.FORWARD)
        if "forward_flops" in wanted:
            forward += sections.FORWARD_FLOPS
        if "saved_for_backward_bytes" in wanted:
            forward += sections.SAVED_FOR_BACKWARD_BYTES
        yield forward
    if steps or not {"backward_flops", "aten_ops"}.isdisjoint(wanted):
        backward = _under("backward", _counters(wanted, "backward"), sections.BACKWARD)
        if "backward_flops" in wanted:
            note = sections.GROUPED if network.has_grouped else ""
            backward += note + sections.BACKWARD_FLOPS
        yield backward
    if steps:
        yield _under("step", _counters(wanted, "step"), sections.STEP)
    if "aten_ops" in wanted:
        counted = "of the whole step" if steps else "of forward, loss and backward"
        yield fill_in(sections.ATEN_OPS, COUNTED=counted)


def _counters(wanted: Collection[str], phase: str) -> Iterator[str]:
    """Yield the contexts that count in a phase. Operators last: they are seen before FLOPs are."""
    if f"{phase}_flops" in wanted:
        yield f"FlopCounterMode(display=False) as {phase}"
    if phase == "forward" and "saved_for_backward_bytes" in wanted:
        yield "saved_tensors_hooks(keep, lambda tensor: tensor)"
    if "aten_ops" in wanted:
        yield "operators"


def _under(phase: str, contexts: Iterable[str], statement: str) -> str:
    """Return a statement under a phase and other contexts, on one line where they fit."""
    managers = [f'phase("{phase}")', *contexts]
    line = f"with {', '.join(managers)}:\n"
    if len(line) > _LINE_LENGTH:
        line = "with (\n" + "".join(f"    {manager},\n" for manager in managers) + "):\n"
    return line + indent(statement, "    ")


def _of_galore(wanted: Collection[str]) -> Iterator[str]:
    """Yield what GaLore's optimizer holds and does."""
    if "optimizer_state_bytes" in wanted:
        yield sections.OPTIMIZER_STATE_BYTES
    if "loss_after_step" in wanted:
        yield sections.LOSS_AFTER_STEP


def _of_adapter(method: PeftAdapter, head: str, wanted: Collection[str]) -> Iterator[str]:
    """Yield what an adapter computes once it is filled."""
    if {"filled_loss", "merged_equals_unmerged"}.isdisjoint(wanted):
        return
    yield fill_in(sections.FILL, HEAD=head, FILLING=indent(filling(method), " " * 12))
    if "filled_loss" in wanted:
        yield sections.FILLED_LOSS
    if "merged_equals_unmerged" in wanted:
        in_float32 = "" if method.base_dtype == "float32" else ".float()"
        yield fill_in(sections.MERGED_EQUALS_UNMERGED, FLOAT=in_float32)


def _joined(parts: Iterable[str]) -> str:
    """Return the parts one below the other, with two blank lines before and after a definition."""
    text = ""
    after_definition = False
    for part in parts:
        statements = [line for line in part.splitlines() if line and line[0] not in " )#"]
        before_definition = statements[0].startswith(_DEFINITION)
        blank_lines = 2 if before_definition or after_definition else 1
        text += "\n" * (blank_lines if text else 0) + part
        after_definition = statements[-1].startswith(_DEFINITION)
    return text


def _imports(body: str) -> Iterator[str]:
    """Yield the imports that a body needs, a block each."""
    for block in _IMPORTS:
        yield "".join(f"{line}\n" for mark, line in block.items() if mark in body)
