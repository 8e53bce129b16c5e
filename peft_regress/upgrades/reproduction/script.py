"""Write a script that shows a change to a library's maintainers without this project.

It needs only torch, torchvision and the library, runs with peft 0.10 to 0.21, and prints one fact
per line, so that a plain diff compares two releases. No torch at import.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from textwrap import indent
from typing import Final

from peft_regress import registry
from peft_regress.cases import Case
from peft_regress.catalogue.architectures.torchvision_models import TorchvisionModel
from peft_regress.catalogue.methods import GaLore, Method, PeftAdapter
from peft_regress.catalogue.methods.method import BaseDtype
from peft_regress.errors import UnknownNameError
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.upgrades.reproduction import sections
from peft_regress.upgrades.reproduction.methods import (
    Network,
    adapting,
    filling,
    optimizing,
    package_of,
)
from peft_regress.upgrades.reproduction.sections import fill_in, source

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
"""What a script can print. The last two describe an update, the three before them an adapter.

torch itself counts the FLOPs, at batch 1 and 224x224. They equal the metrics, except for grouped
convolutions (a comment in the script says so) and for products with a vector, which torch leaves
out (0.001 % of BOFT's). `aten_ops` counts operators of forward, loss and backward. Losses are those
of noise; the logits of a filled adapter are divided by the largest logit of the source.
"""

_OF_AN_ADAPTER: Final = frozenset(FACTS[5:8])
_OF_AN_UPDATE: Final = frozenset(FACTS[8:])
_OF_VALUES: Final = _OF_AN_ADAPTER | {"loss_after_step"}

# Relative to the largest logit. Wider than the invariant's: untrained networks amplify rounding
# more than sources do, up to 1.1e-5 (HRA), and to 0.12 on bfloat16 (DoRA's rounded magnitude).
_IDENTITY_TOLERANCE: Final[dict[BaseDtype, float]] = {"float32": 1e-4, "bfloat16": 0.2}

_LINE_LENGTH: Final = 100
_DEFINITION: Final = ("def ", "class ", "@")

# Facts that show why a metric or an invariant changed.
_FUNCTION: Final = ("identity_at_start", "filled_loss", "loss_after_step")
_FACTS_OF: Final[dict[str, tuple[str, ...]]] = {
    "trainable_params": ("trainable_params",),
    "total_params": ("trainable_params",),
    "adapter_bytes": ("trainable_params",),
    "expected_trainable": ("trainable_params",),
    "forward_flops": ("forward_flops",),
    "backward_flops": ("backward_flops",),
    "paper_forward_flops": ("forward_flops",),
    "paper_backward_flops": ("backward_flops",),
    "peak_bytes": ("saved_for_backward_bytes", "optimizer_state_bytes"),
    "peak_param_bytes": ("trainable_params",),
    "peak_grad_bytes": ("trainable_params",),
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

# By the text that needs them; those of the standard library come first.
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


def facts_for(changed: Iterable[str]) -> frozenset[str]:
    """Return the facts that show a change of these metrics and invariants, for any method."""
    return frozenset(
        fact for name in changed for fact in _FACTS_OF.get(name.removesuffix(BATCH_SUFFIX), ())
    )


def reproduction_script(case: Case, *, facts: Collection[str] | None = None) -> str | None:
    """Return a script that adapts the model of a case and prints `FACTS`; None if there is none.

    With `facts` it prints only those, as far as they apply to the method; with an empty collection
    it only adapts the model. If the library raises, the script prints
    `error: <type>: <first line> (<phase>)` and ends; phases are wrap, forward, backward, step and
    merge. It shows no update if the method's optimizer or learning rate is not built in.

    There is no script if the architecture is not torchvision's, if the method is not exactly a
    `PeftAdapter`, `Selective` or `GaLore` or wraps in a context of its own, or if the architecture
    has no layer for the method. The task does not matter: the images are noise and no fact is an
    accuracy. Raises `UnknownNameError` for an unregistered name or an unknown fact.
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
    if not isinstance(method, GaLore) and optimizing(method, case.rank) is None:
        wanted -= _OF_AN_UPDATE
    script = _Script(method, case.rank, network, code, frozenset(wanted))
    body = _joined(script.parts())
    ranked = case.method if case.rank is None else f"{case.method}-r{case.rank}"
    header = fill_in(sections.HEADER, TITLE=f"{ranked} on {case.architecture}")
    return "\n".join([header, *_imports(body), body])


@dataclass(frozen=True)
class _Script:
    """The body of a script below its imports: the parts that the wanted facts need."""

    method: Method
    rank: int | None
    network: Network
    adapting: str
    wanted: frozenset[str]

    def wants(self, *facts: str) -> bool:
        return not self.wanted.isdisjoint(facts)

    def parts(self) -> Iterator[str]:
        """Yield parts, which blank lines separate."""
        yield from self._model()
        yield self.adapting
        yield from self._function()
        yield from self._step()
        yield from self._update()
        if self.wants("merged_equals_unmerged"):
            in_float32 = ".float()" if self.method.base_dtype == "bfloat16" else ""
            yield fill_in(sections.MERGED_EQUALS_UNMERGED, FLOAT=in_float32)

    def _model(self) -> Iterator[str]:
        architecture = self.network.architecture
        packages = (*filter(None, [package_of(self.method)]), "torch", "torchvision")
        yield fill_in(sections.VERSIONS, PACKAGES=source(packages))
        options = (f", {name}={source(value)}" for name, value in architecture.options.items())
        yield fill_in(sections.BUILD, ARCHITECTURE=architecture.name, OPTIONS="".join(options))
        if self.network.has_batch_norm and self.wants(*_OF_VALUES):
            yield sections.STATISTICS
        if self.method.base_dtype == "bfloat16":
            yield sections.BFLOAT16
        if self.wants(*_OF_VALUES):
            yield fill_in(sections.LOGITS, CALL=self._call())
        if self.wants("identity_at_start", "filled_loss"):
            yield sections.OF_BASE

    def _call(self) -> str:
        if self.method.base_dtype == "bfloat16":
            return sections.CALL_IN_FLOAT32
        if self.method.trains_batch_norm_statistics:
            return sections.CALL_IN_EVAL_MODE
        return sections.CALL

    def _function(self) -> Iterator[str]:
        """Yield what describes the adapter and its output, at its start and filled."""
        if self.wants("trainable_params"):
            yield sections.TRAINABLE_PARAMS
        if self.wants("identity_at_start"):
            tolerance = _IDENTITY_TOLERANCE[self.method.base_dtype]
            yield fill_in(sections.IDENTITY_AT_START, TOLERANCE=repr(tolerance))
        if self.wants("filled_loss", "merged_equals_unmerged"):
            assert isinstance(self.method, PeftAdapter)  # noqa: S101  (these facts exist only for adapters)
            yield filling(self.method, self.rank, self.network)
        if self.wants("filled_loss"):
            yield sections.FILLED_LOSS

    def _step(self) -> Iterator[str]:
        """Yield a forward and a backward pass, inside the counters of the wanted facts."""
        if self.wants("saved_for_backward_bytes"):
            # In a pass of its own: hooks on saved tensors run operators that a step does not have.
            yield sections.SAVED
            hooks = "saved_tensors_hooks(keep, lambda tensor: tensor)"
            kept = _under("forward", [hooks], sections.FORWARD)
            yield kept + sections.SAVED_FOR_BACKWARD_BYTES
        if self.wants("aten_ops"):
            yield sections.OPERATORS
        if self.wants("forward_flops", "backward_flops", "aten_ops", *_OF_AN_UPDATE):
            forward = _under("forward", self._counters("forward"), sections.FORWARD)
            if self.wants("forward_flops"):
                forward += sections.FORWARD_FLOPS
            yield forward
        if self.wants("backward_flops", "aten_ops", *_OF_AN_UPDATE):
            backward = _under("backward", self._counters("backward"), sections.BACKWARD)
            if self.wants("backward_flops"):
                note = sections.GROUPED if self.network.has_grouped else ""
                backward += note + sections.BACKWARD_FLOPS
            if self.wants("aten_ops"):
                backward += sections.ATEN_OPS
            yield backward

    def _counters(self, phase: str) -> Iterator[str]:
        # The operator counter comes last, so it sees operators first: the FLOP counter decomposes
        # some of them.
        if self.wants(f"{phase}_flops"):
            yield f"FlopCounterMode(display=False) as {phase}"
        if self.wants("aten_ops"):
            yield "operators"

    def _update(self) -> Iterator[str]:
        """Yield an update, the size of the optimizer's state, and the loss after it."""
        if not self.wants(*_OF_AN_UPDATE):
            return
        projects = isinstance(self.method, GaLore)  # `adapting` has made its optimizer
        if not projects:
            yield optimizing(self.method, self.rank) or ""
        yield _under("step", (), sections.STEP)
        if self.wants("optimizer_state_bytes"):
            held = sections.HELD_AND_PROJECTION if projects else sections.HELD
            yield fill_in(sections.OPTIMIZER_STATE_BYTES, HELD=held)
        if self.wants("loss_after_step"):
            yield sections.LOSS_AFTER_STEP


def _under(phase: str, contexts: Iterable[str], statement: str) -> str:
    """Return a statement inside a phase and other contexts, on one line if they fit."""
    managers = [f'phase("{phase}")', *contexts]
    line = f"with {', '.join(managers)}:\n"
    if len(line) > _LINE_LENGTH:
        line = "with (\n" + "".join(f"    {manager},\n" for manager in managers) + "):\n"
    return line + indent(statement, "    ")


def _joined(parts: Iterable[str]) -> str:
    """Join the parts, with two blank lines before and after a definition."""
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
