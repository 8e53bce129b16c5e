"""Write scripts that show findings to a library's maintainers, and run them on both sides.

A script needs only torch, torchvision and the library, runs with peft 0.10 to 0.21, and prints one
fact per line, so that a plain diff compares two releases. No torch at import.
"""

import subprocess
import tempfile
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final

import jinja2

from peft_regress import registry
from peft_regress.cases import BFLOAT16_SUFFIX, Case
from peft_regress.catalogue.architectures.torchvision_models import TorchvisionModel
from peft_regress.catalogue.methods import GaLore, Method, PeftAdapter, Selective
from peft_regress.errors import UnsupportedCaseError
from peft_regress.gate.findings import Finding
from peft_regress.gate.verdicts import Observation
from peft_regress.invariants import INVARIANTS
from peft_regress.metrics import BATCH_SUFFIX
from peft_regress.processes import variables
from peft_regress.project.project import is_built_in
from peft_regress.text import clean

FACTS: Final = (
    "trainable_params", "forward_flops", "backward_flops", "saved_for_backward_bytes", "aten_ops",
    "identity_at_start", "filled_loss", "merged_equals_unmerged", "optimizer_state_bytes",
    "loss_after_step",
)  # fmt: skip
"""What a script can print. The last two describe an update, the three before them an adapter.

torch itself counts the FLOPs, at batch 1 and 224x224. They equal the metrics, except for grouped
convolutions (a comment in the script says so) and for products with a vector, which torch leaves
out (0.001 % of BOFT's). `aten_ops` counts operators of forward, loss and backward. Losses are those
of noise; the logits of a filled adapter are divided by the largest logit of the source.
"""

_OF_AN_ADAPTER: Final = frozenset(FACTS[5:8])
_OF_AN_UPDATE: Final = frozenset(FACTS[8:])

# Relative to the largest logit. Wider than the invariant's: untrained networks amplify rounding
# more than sources do, up to 1.1e-5 (HRA), and to 0.12 on bfloat16 (DoRA's rounded magnitude).
_IDENTITY_TOLERANCE: Final = {"float32": 1e-4, "bfloat16": 0.2}

# The methods with an optimizer of their own that the template knows.
_OPTIMIZERS: Final = frozenset({"adalora", "loraplus", "lorafa"})

# Facts that show why a metric or an invariant changed.
_FUNCTION: Final = ("identity_at_start", "filled_loss", "loss_after_step")
_MEMORY: Final = ("saved_for_backward_bytes", "optimizer_state_bytes")
_PARAMETERS: Final = ("total_params", "adapter_bytes", "peak_param_bytes", "peak_grad_bytes")
_FACTS_OF: Final[dict[str, tuple[str, ...]]] = {
    **dict.fromkeys(("trainable_params", *_PARAMETERS), ("trainable_params",)),
    **dict.fromkeys(("forward_flops", "paper_forward_flops"), ("forward_flops",)),
    **dict.fromkeys(("backward_flops", "paper_backward_flops"), ("backward_flops",)),
    **dict.fromkeys(("peak_bytes", "category_sum_bytes"), _MEMORY),
    **dict.fromkeys(("peak_activation_bytes", "peak_temp_bytes"), _MEMORY[:1]),
    **dict.fromkeys(("peak_optimizer_bytes", "optimizer_state_bytes"), _MEMORY[1:]),
    **dict.fromkeys(("first_losses", "accuracy", "loss"), _FUNCTION),
    "aten_ops": ("aten_ops",),
    "filled_losses": ("filled_loss",),
    **{name: one.shown_by for name, one in INVARIANTS.items()},
}


def facts_for(changed: Iterable[str]) -> frozenset[str]:
    """Return the facts that show a change of these metrics and invariants, for any method."""
    names = (name.removesuffix(BATCH_SUFFIX) for name in changed)
    return frozenset(fact for name in names for fact in _FACTS_OF.get(name, ()))


def source(value: object) -> str:
    """Return a literal with double quotes, as formatters write it."""
    literal = repr(value)
    # With one of them in a text, the quotes around it may differ: then Python's own are right.
    return literal if '"' in literal else literal.replace("'", '"')


@cache
def _template() -> jinja2.Template:
    found = jinja2.Environment(  # noqa: S701  (Python, not HTML)
        loader=jinja2.PackageLoader("peft_regress.upgrades", "."),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.filters["source"] = source
    return found.get_template("reproduction.py.jinja")


def reproduction_script(case: Case, *, facts: Collection[str] = FACTS) -> str | None:
    """Return a script that adapts the model of a case and prints facts; None if there is none.

    It prints those of `facts` that apply to the method; without any it only adapts the model. If
    the library raises, the script prints `error: <type>: <first line> (<phase>)` and ends; phases
    are wrap, forward, backward, step and merge. It shows no update of an unknown optimizer.

    There is no script if the architecture is not torchvision's, if the method is not exactly a
    `PeftAdapter`, `Selective` or `GaLore` or wraps in a context of its own, or if the architecture
    has no layer for the method. The task does not matter: the images are noise and no fact is an
    accuracy. Raises `UnknownNameError` for an unregistered name.
    """
    method: Method = registry.get("method", case.method)
    architecture = registry.get("architecture", case.architecture)
    if type(architecture) is not TorchvisionModel:
        return None
    adapting = _adapting(method, case.rank, architecture)
    if adapting is None:
        return None
    optimizer = _optimizer(method)
    wanted = set(facts)
    if not isinstance(method, PeftAdapter):
        wanted -= _OF_AN_ADAPTER
    if optimizer is None:
        wanted -= _OF_AN_UPDATE
    updates = not wanted.isdisjoint(_OF_AN_UPDATE)
    text = _template().render(
        title=f"{case.adapter_name} on {case.architecture}",
        facts=wanted,
        architecture=architecture.name,
        options=dict(architecture.options),
        head=architecture.head,
        bfloat16=method.base_dtype == "bfloat16",
        follows_statistics=method.trains_batch_norm_statistics,
        drops_out=method.trains_with_dropout,
        identity_tolerance=_IDENTITY_TOLERANCE[method.base_dtype],
        computes=not wanted.isdisjoint({*_OF_AN_ADAPTER, "loss_after_step"}),
        fills=not wanted.isdisjoint({"filled_loss", "merged_equals_unmerged"}),
        steps=updates or not wanted.isdisjoint({"forward_flops", "backward_flops", "aten_ops"}),
        updates=updates,
        optimizer=optimizer,
        rate=method.learning_rate,
        rank=case.rank,
        **adapting,
    )
    return f"{text.strip()}\n"


def _adapting(
    method: Method, rank: int | None, architecture: TorchvisionModel
) -> dict[str, Any] | None:
    """Return what the template says of a method; None for a method or layers that it cannot say."""
    from torch import nn

    from peft_regress.cost.stand_ins import without_weights

    with without_weights():
        model = architecture.build(num_classes=10, seed=0)
    modules = list(model.modules())
    found: dict[str, Any] = {
        "packages": ("torch", "torchvision"),
        "config": None,
        "selects": None,
        "batch_norm": any(isinstance(module, nn.BatchNorm2d) for module in modules),
        "grouped": any(getattr(module, "groups", 1) > 1 for module in modules),
    }
    # By exact class: what a derived class does is not known here.
    if type(method) is Selective:
        try:
            method.at(heads=(architecture.head,)).adapt(model, seed=0)
        except UnsupportedCaseError:
            return None
        return {**found, "selects": method.trains}
    if type(method) is GaLore:
        return {
            **found,
            "packages": ("galore-torch", *found["packages"]),
            "clones_projection": method.clones_projection,
            "settings": method.at(rank).settings(),
        }
    if type(method) is not PeftAdapter:
        return None
    layers = method.targets.find(model, heads=(architecture.head,))
    # The template has what BOFT's context does.
    if not layers or (method.wrapping is not nullcontext and method.config != "BOFTConfig"):
        return None
    trained = {name for layer in layers.values() for name in method.shapes(layer, rank or 0)}
    return {
        **found,
        "packages": ("peft", *found["packages"]),
        "config": method.config,
        "settings": method.settings(rank),
        "targets": list(layers),
        "frozen": method.frozen,
        "parts": tuple(sorted({f".{name.partition('.')[0]}." for name in trained})),
        "scales": method.scales,
    }


def _optimizer(method: Method) -> str | None:
    """Return what the template calls the optimizer of a method; None for an unknown one."""
    if isinstance(method, GaLore):
        return ""  # it is made where the method is
    if getattr(method, "optimizer", None) is None:
        return "adamw"
    name = method.name.removesuffix(BFLOAT16_SUFFIX)
    return name if name in _OPTIMIZERS else None


_MOST: Final = 3
_SECONDS: Final = 300
_LONGEST_OUTPUT: Final = 4000


@dataclass(frozen=True, kw_only=True)
class Reproduction:
    """A script that shows a finding, with torch, torchvision and the library alone."""

    finding: Finding
    script: str
    outputs: Mapping[str, str]
    """What the script prints, by the name of the side."""


def reproduce(
    findings: Sequence[Finding], observed: Mapping[str, Observation], pythons: Mapping[str, Path]
) -> Iterator[Reproduction]:
    """Write and run the scripts of the gravest findings that have one: own cases have none.

    `observed` are observations of their cases, by id; `pythons` are the interpreters of the two
    sides, by the name of the side.
    """
    for finding in findings[:_MOST]:
        case = observed[finding.example.case].record.case
        if not is_built_in(case):
            continue
        script = reproduction_script(case, facts=facts_for(_shown(finding)))
        if script is not None:
            outputs = {side: _output(python, script) for side, python in pythons.items()}
            yield Reproduction(finding=finding, script=script, outputs=outputs)


def _shown(finding: Finding) -> set[str]:
    """Return the metrics or the invariant to show, without costs that follow from other costs."""
    metrics = {reason.subject for reason in finding.example.reasons}
    if finding.cause.strand != "costs":
        return metrics
    return {name for name in metrics if name.endswith("_flops")} | {finding.cause.what}


def _output(python: Path, script: str) -> str:
    """Return what a script prints, or why it printed nothing."""
    with tempfile.TemporaryDirectory(prefix="peft-regress-") as folder:
        file = Path(folder) / "reproduction.py"
        file.write_text(script, encoding="utf-8")
        try:
            done = subprocess.run(  # noqa: S603  (a script of our own)
                [str(python), "-W", "ignore", str(file)],
                cwd=folder,
                env=variables(),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return f"(nothing within {_SECONDS} s)"
    lines = [clean(line, longest=400) for line in done.stdout.splitlines()]
    if done.returncode:
        errors = [line for line in done.stderr.splitlines() if line.strip()] or ["no message"]
        lines.append(f"exit code {done.returncode}: {clean(errors[-1])}")
    return "\n".join(lines)[:_LONGEST_OUTPUT]
