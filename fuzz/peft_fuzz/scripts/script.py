"""Write a script that shows a finding without this project: plain torch and peft.

It does what the example does, with the same seeds, and no more: what was expected and what came is
printed, and the exit code is 1 if the failure is there, 0 if not.
"""

from __future__ import annotations

import inspect
import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from types import FunctionType
from typing import Any, Final

from peft_fuzz.acts import AnyAct, Wrap
from peft_fuzz.acts.act import Lines, folder_of, follow
from peft_fuzz.example import Example, Failure
from peft_fuzz.methods import METHODS
from peft_fuzz.methods.elementwise import is_feedforward
from peft_fuzz.networks.network import Layer, Network
from peft_fuzz.oracle.checks import CRASH
from peft_fuzz.oracle.plan import Plan

_RAISED: Final = frozenset({"accepted", "exception", CRASH})
"""Where what an act raises is what the script is about."""
_OUTPUT_CHECKS: Final = frozenset({"merged", "two_ways", "loaded", "leftover", "unmerged"})
"""Where what the model computes after an act must be what it computed before."""
_SAME_OUTPUT: Final = ("compare('as before', before, output(model, x))",)
_COMPARED: Final[Mapping[str, tuple[str, ...]]] = {
    "dtype": ("compare_types(model, original, x)",),
    "layout": ("check_layout(model, original)",),
    "leftover": ("leftovers_of(model, deleted)",),
    "loaded": _SAME_OUTPUT,
    "merged": _SAME_OUTPUT,
    "no_op": ("compare_unequal(output(original, x), output(model, x))",),
    "refused_safe_merge": ("compare_weights(model, original)",),
    "two_ways": _SAME_OUTPUT,
    "unmerged": ("compare_weights(model, original)", *_SAME_OUTPUT),
}
"""What shows that a check fails, after the act."""
_LONGEST_LINE: Final = 88
_ALLOWED: Final = re.compile(r"the formula needs (\d+) more")
_SAVED: Final = re.compile(r"The file of (\S+) holds (\S+) of (\S+)\.")
"""What the messages of `oracle.cost` and `acts.saving` say."""


_IMPORTS: Final[tuple[dict[str, str], dict[str, str]]] = (
    {
        "copy.": "import copy",
        "tempfile.": "import tempfile",
        "Iterable[": "from collections.abc import Iterable, Sequence",
    },
    {
        "torch.": "import torch",
        "Tensor": "from torch import Tensor",
        "nn.": "from torch import nn",
        "BaseTunerLayer": "from peft.tuners.tuners_utils import BaseTunerLayer",
        "functional_call(": "from torch.func import functional_call",
        "FlopCounterMode": "from torch.utils.flop_counter import FlopCounterMode",
        "Conv1D(": "from transformers.pytorch_utils import Conv1D",
        "safe_open(": "from safetensors import safe_open",
        "hotswap_adapter(": "from peft.utils.hotswap import hotswap_adapter",
        "prepare_model_for_compiled_hotswap(": (
            "from peft.utils.hotswap import prepare_model_for_compiled_hotswap"
        ),
    },
)
"""The import that a script needs for a word in it: the standard library, and others."""

_MOVES_MORE: Final = frozenset({"bias", "lora_bias", "modules_to_save"})
"""Settings by which an adapter changes more than weights."""


def script_of(example: Example, failure: Failure, packages: Mapping[str, str]) -> str:
    """Return the script of a failure that was seen with some packages."""
    body = _body(_Script(example, failure).lines())
    seen = ", ".join(f"{name} {version}" for name, version in packages.items())
    parts = [*_called_functions(body), _network_code(example.network)]
    text = "\n\n\n".join(parts) + f"\n\n\n{body}\n"
    header = f'"""{_wrapped(failure.message)}\n\nSeen with {seen}.\n"""'
    return f"{header}\n\n{_imports(text)}\n\n\n{text}"


@cache
def _functions() -> dict[str, str]:
    from peft_fuzz.scripts import script_functions as shown  # it loads torch

    return {
        name: inspect.getsource(value).rstrip()
        for name, value in vars(shown).items()
        if isinstance(value, FunctionType) and value.__module__.startswith("peft_fuzz.")
    }


def _called_functions(body: str) -> list[str]:
    called: dict[str, str] = {}
    text = body
    while True:
        new = {
            name: code
            for name, code in _functions().items()
            if name not in called and re.search(rf"\b{name}\b", text)
        }
        if not new:
            return [code for name, code in _functions().items() if name in called]
        called |= new
        text = "\n".join(new.values())


def _body(lines: Iterable[str]) -> str:
    """Return lines without the values that no other line uses."""
    kept = list(lines)
    for name in ("before", "tensors", "deleted", "original"):
        uses = [line for line in kept if re.search(rf"\b{name}\b", line)]
        if all(line.startswith(name) for line in uses):
            kept = [line for line in kept if line not in uses]
    return "\n".join(line for line, _ in itertools.groupby(kept))


def _wrapped(message: str) -> str:
    plain = message.replace("\\", "/").replace('"', "'")
    return textwrap.fill(plain, _LONGEST_LINE)


def _imports(text: str) -> str:
    standard = [line for word, line in _IMPORTS[0].items() if word in text]
    others = [line for word, line in _IMPORTS[1].items() if word in text]
    names = sorted(
        {
            *(method.config for method in METHODS.values() if f"{method.config}(" in text),
            *(name for name in ("PeftModel", "get_peft_model") if name in text),
        }
    )
    others.append(f"from peft import {', '.join(names)}")
    groups = ["\n".join(standard), "\n".join(sorted(others, key=_import_order))]
    return "\n\n".join(filter(None, groups))


def _import_order(line: str) -> tuple[bool, str]:
    return (line.startswith("from"), line.split()[1])


class _Script:
    """The body of a script: what the example does, then what did not hold."""

    def __init__(self, example: Example, failure: Failure) -> None:
        self.example = example
        self.failure = failure
        self.method = METHODS[example.method]
        autocast = "" if example.autocast else ", autocast_adapter_dtype=False"
        self.acts = Lines(on=example, method=self.method, autocast=autocast)

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        network = self.example.network
        if _needs_own_kernels(self.example):
            yield "torch.backends.mkldnn.enabled = False  # oneDNN is wrong on some CPUs"
        yield f"torch.manual_seed({network.seed})"
        yield f"network = Network(){_converted(network)}.eval()"
        yield f"torch.manual_seed({network.seed + 1})"
        yield f"x = {_input(network)}"
        yield "original = copy.deepcopy(network)"
        yield ""
        position = self.failure.act
        wrap = list(Wrap().lines(self.acts))
        if position < 0:
            yield from self._checked(wrap, Wrap())
            return
        yield from wrap
        yield ""
        plans, known = self._plans(), self._known_at()
        for index, act in enumerate(self.example.acts[: position + 1]):
            code = list(act.lines(self.acts))
            is_shown = index == position and self.failure.check in _RAISED
            if act.refusal(plans[index]) is not None and not is_shown:
                code = list(_refusing(code))
            if index == known:
                yield from (*code, "before = output(model, x)")
            elif index < position:
                yield from code
            else:
                yield ""
                yield from self._checked(code, act)

    def _checked(self, code: list[str], act: AnyAct) -> Iterator[str]:
        """Yield the act after which something did not hold, and what shows that."""
        check, kind = self.failure.check, act.kind
        if check in {"exception", CRASH}:
            yield "print('expected: no error')"
            # A forward pass may be what fails.
            yield from _tried([*code, "output(model, x)"])
            return
        if check == "accepted":
            yield "print('expected: a clear error, for what the documentation refuses')"
            yield from code
            yield "print('came: no error')"
            yield "raise SystemExit(1)"
            return
        if kind != "wrap" and self._known_at() is None:
            keeps_adapters = kind != "unload" or "merge" in code[0]
            kept = "model" if keeps_adapters else "without_adapters(model)"
            yield f"before = output({kept}, x)"
            yield "tensors = snapshot(model)"
        yield from code
        if kind == "disable":
            yield "output(model, x)  # a disabled layer takes merged weights out when it is called"
        if kind == "unload" and check in _OUTPUT_CHECKS:
            yield "leftovers(model, original)"
            yield "compare('as before unloading', before, output(model, x))"
        elif check == "function":
            yield from self._compared_with_formula()
            return
        else:
            yield from self._comparison(check, code)
        yield "print('nothing differs')"

    def _comparison(self, check: str, code: Sequence[str]) -> Iterator[str]:
        if check in {"identity", "disabled"}:
            came = "inside" if "    inside = output(model, x)" in code else "output(model, x)"
            yield f"compare('as the base computes', output(original, x), {came})"
        elif check == "leak" and self.failure.message.endswith("is adapted."):
            yield "check_copies(model)"
        elif check in {"frozen", "leak"}:
            has_changed = "has changed" in self.failure.message
            function = (
                "check_changes(model, tensors, " if has_changed else "check_trainable(model, "
            )
            yield f"{function}adapters={self._allowed()!r})"
        elif check == "trained":
            yield f"check_trained(model, tensors, {self._allowed()!r})"
        elif check == "cost":
            yield f"check_flops(original, model, x, allowed={self._found(_ALLOWED)[0]})"
        elif check == "gradient":
            yield from self._compared_gradients()
        elif check == "saved_keys":
            adapter, key, other = self._found(_SAVED)
            yield f"check_saved({folder_of(adapter)}, {key!r}, {adapter!r}, {other!r})"
        else:
            yield from _COMPARED.get(check, ())

    def _compared_with_formula(self) -> Iterator[str]:
        by_hand, adapters = self.method.by_hand, self.example.adapters
        kinds = {layer.kind for layer in self.example.network.layers}
        moves_more = any(_MOVES_MORE & one.settings.keys() for one in adapters)
        # Such a start changes the base.
        has_named_start = any(
            isinstance(one.settings.get("init_lora_weights"), str) for one in adapters
        )
        if by_hand == "scaled_by_hand" and not moves_more:
            layers = [layer.name for layer in self.example.network.layers]
            feedforward = {
                one.name: [name for name in layers if is_feedforward(one.settings, name)]
                for one in adapters
            }
            yield f"expected = scaled_by_hand(model, original, x, {feedforward!r})"
            what = "factors"
        elif (
            not by_hand
            or moves_more
            or has_named_start
            or ("embedding" in kinds and by_hand != "with_lora")
        ):
            yield "print('expected: the output by the formula, which this script does not compute')"
            yield "print('came:', output(model, x))"
            return
        else:
            yield f"expected = merged_by_hand(model, original, x, {by_hand})"
            what = "weights"
        yield f"compare('the base with the {what} of the formula', expected, output(model, x))"
        yield "print('nothing differs')"

    def _compared_gradients(self) -> Iterator[str]:
        if self.method.name == "dora":
            yield "print('expected: gradients by the formula, which takes the norm for a constant')"
            yield "print('this script does not compute them')"
        else:
            yield "check_gradients(model, x)"

    def _known_at(self) -> int | None:
        """Return the last act before the failing one with the same adapters, if others came after.

        What the model computed then is what it must compute again.
        """
        position = self.failure.act
        if self.failure.check != "two_ways" or self.example.acts[position].kind != "activate":
            return None
        effects = [plan.effect() for plan in self._plans()[1:]]
        same = [index for index in range(position) if effects[index] == effects[position]]
        return same[-1] if same and same[-1] < position - 1 else None

    def _found(self, pattern: re.Pattern[str]) -> Sequence[str]:
        found = pattern.search(self.failure.message)
        return found.groups() if found else ["0"] + ["?"] * (pattern.groups - 1)

    def _allowed(self) -> list[str]:
        """Return the adapters that may train, or change, after the failing act."""
        plan = self._plans()[-1]
        return sorted(plan.trainable or ()) if plan.enabled else []

    def _plans(self) -> list[Plan]:
        """Return the plan before each act up to the failing one, and after that."""
        plans = [Plan.start(self.example, self.method.abilities)]
        for act in self.example.acts[: self.failure.act + 1]:
            plans.append(follow(plans[-1], act))
        return plans


def _refusing(code: list[str]) -> Iterator[str]:
    """Yield an act that is refused; were the error unclear, the finding would be about it."""
    yield "try:"
    yield from (f"    {line}" for line in code)
    yield "except Exception as error:"
    yield "    print(f'refused, as it must be: {type(error).__name__}: {error}')"


def _tried(code: list[str]) -> Iterator[str]:
    yield "try:"
    yield from (f"    {line}" if line else "" for line in code)
    yield "except Exception as error:"
    yield "    print(f'came: {type(error).__name__}: {error}')"
    yield "    raise SystemExit(1) from None"
    yield "print('came: no error')"


def _needs_own_kernels(example: Example) -> bool:
    """Return whether oneDNN may compute a network otherwise than torch's own kernels."""
    later = (getattr(act, "dtype", None) for act in example.acts)
    in_half = any(one not in {None, "float32"} for one in (example.network.dtype, *later))
    return in_half and any(one.is_convolution for one in example.network.layers)


def _converted(network: Network) -> str:
    dtype = "" if network.dtype == "float32" else f".to(torch.{network.dtype})"
    layout = ".to(memory_format=torch.channels_last)" if network.channels_last else ""
    return dtype + layout


def _input(network: Network) -> str:
    first, sizes = network.layers[0], list(network.sizes)
    if first.kind == "embedding":
        return f"torch.randint({first.inputs}, {(network.batch, *sizes)!r})"
    shape: tuple[Any, ...] = (network.batch, *sizes, first.inputs)
    if first.is_convolution:
        shape = (network.batch, first.inputs, *sizes)
    code = f"torch.randn({', '.join(map(str, shape))})"
    code += "" if network.dtype == "float32" else f".to(torch.{network.dtype})"
    if network.channels_last and len(shape) == 4:  # noqa: PLR2004  (images)
        code += ".contiguous(memory_format=torch.channels_last)"
    return code


_CLASSES: Final = {"conv1d": "nn.Conv1d", "conv2d": "nn.Conv2d", "conv3d": "nn.Conv3d"}


def _network_code(network: Network) -> str:
    lines = ["super().__init__()"]
    made: set[str] = set()
    for layer in network.layers:
        *containers, _ = layer.name.split(".")
        for depth in range(1, len(containers) + 1):
            path = ".".join(containers[:depth])
            if path not in made:
                made.add(path)
                lines.append(f"{_place(path)} = nn.Module()")
        if layer.same_as is not None:
            lines.append(f"{_place(layer.name)} = {_place(layer.same_as)}")
        else:
            lines += list(_layer_lines(layer))
    init, forward = ("\n".join(part) for part in (lines, _forward(network)))
    return (
        "class Network(nn.Module):\n"
        f"    def __init__(self):\n{textwrap.indent(init, ' ' * 8)}\n\n"
        f"    def forward(self, x):\n{textwrap.indent(forward, ' ' * 8)}"
    )


def _place(path: str) -> str:
    """Return the code of a path; a name that is no identifier needs another form."""
    code = "self"
    for part in path.split("."):
        code += f".{part}" if part.isidentifier() else f"._modules[{part!r}]"
    return code


def _layer_lines(layer: Layer) -> Iterator[str]:
    place = _place(layer.name)
    if layer.kind == "transposed_linear":
        yield f"{place} = Conv1D({layer.outputs}, {layer.inputs})"
        yield f"nn.init.normal_({place}.weight, std={layer.inputs} ** -0.5)"
        yield f"nn.init.normal_({place}.bias, std=0.1)"
        return
    yield f"{place} = {_layer_code(layer)}"


def _layer_code(layer: Layer) -> str:
    bias = "" if layer.bias else ", bias=False"
    sizes = f"{layer.inputs}, {layer.outputs}"
    if layer.kind in _CLASSES:
        extra = "".join(
            f", {name}={_size(getattr(layer, name))}"
            for name in ("stride", "padding", "dilation")
            if getattr(layer, name)
        )
        extra += f", groups={layer.groups}" if layer.groups > 1 else ""
        mode = layer.padding_mode
        extra += "" if mode == "zeros" else f", padding_mode={mode!r}"
        return f"{_CLASSES[layer.kind]}({sizes}, {_size(layer.kernel)}{extra}{bias})"
    if layer.kind == "embedding":
        return f"nn.Embedding({sizes})"
    if layer.kind == "attention":
        width = f"{layer.inputs}, {layer.heads}"
        return f"nn.MultiheadAttention({width}{bias}, batch_first=True)"
    return f"nn.Linear({sizes}{bias})"


def _size(value: tuple[int, ...] | str) -> str:
    if isinstance(value, str):
        return repr(value)
    return str(value[0]) if len(set(value)) == 1 else repr(tuple(value))


def _forward(network: Network) -> Iterator[str]:
    in_space = False
    for layer in network.layers:
        place, is_convolution = _place(layer.name), layer.kind in _CLASSES
        if in_space and not is_convolution:
            yield "x = x.flatten(2).mean(2)"
        in_space = is_convolution
        if layer.kind == "attention":
            yield f"x = {place}(x, x, x, need_weights=False)[0]"
        else:
            yield f"x = {place}(x)"
    yield "return x"
