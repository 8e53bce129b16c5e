"""Write a script that shows a finding without this project: plain torch and peft.

It does what the example does, with the same seeds, and no more: what was expected and what came is
printed, and the exit code is 1 if the failure is there, 0 if not. No torch here.
"""

from __future__ import annotations

import itertools
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from peft_fuzz import example as e
from peft_fuzz.causes import CRASH
from peft_fuzz.example import Example, Failure
from peft_fuzz.findings import Finding
from peft_fuzz.life.plan import Plan, after, refusal
from peft_fuzz.methods import METHODS
from peft_fuzz.script_formulas import (
    changes_more,
    feedforward_layers,
    weight_function,
)
from peft_fuzz.script_parts import HELPERS, IMPORTS, network_code, settings_code

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
"""What the messages of `life.cost` and `life.life` say."""


def script_of(finding: Finding) -> str:
    """Return the script of a finding."""
    body = _body(_Script(finding.example, finding.failure).lines())
    helpers = _helpers(body)
    packages = ", ".join(f"{name} {version}" for name, version in finding.packages.items())
    network = network_code(finding.example.network)
    parts = [*helpers, network]
    text = "\n\n\n".join(parts) + f"\n\n\n{body}\n"
    header = f'"""{_wrapped(finding.failure.message)}\n\nSeen with {packages}.\n"""'
    return f"{header}\n\n{_imports(text)}\n\n\n{text}"


def _helpers(body: str) -> list[str]:
    """Return the functions that a script calls, and those that they call."""
    called: dict[str, str] = {}
    text = body
    while True:
        new = {
            n: code
            for n, code in HELPERS.items()
            if n not in called and re.search(rf"\b{n}\b", text)
        }
        if not new:
            return [code for name, code in HELPERS.items() if name in called]
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
    standard = [line for word, line in IMPORTS[0].items() if word in text]
    others = [line for word, line in IMPORTS[1].items() if word in text]
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
        self.autocast = "" if example.autocast else ", autocast_adapter_dtype=False"
        self.saves = 0

    def lines(self) -> Iterator[str]:
        """Yield the lines."""
        network, first = self.example.network, self.example.adapters[0]
        if _needs_own_kernels(self.example):
            yield "torch.backends.mkldnn.enabled = False  # oneDNN is wrong on some CPUs"
        yield f"torch.manual_seed({network.seed})"
        yield f"network = Network(){_converted(network)}.eval()"
        yield f"torch.manual_seed({network.seed + 1})"
        yield f"x = {_input(network)}"
        yield "original = copy.deepcopy(network)"
        yield ""
        position = self.failure.act
        wrap = [
            f"torch.manual_seed({network.seed})",
            f"config = {settings_code(self.method, first.settings)}",
            f"model = get_peft_model(network, config{_named(first.name)}{self.autocast})",
            "model.eval()",
        ]
        if position < 0:
            yield from self._checked(wrap, "wrap")
            return
        yield from wrap
        yield ""
        _, refused = self._followed()
        known = self._known_at()
        for index, act in enumerate(self.example.acts[: position + 1]):
            code = list(self._act(act))
            if index in refused and not (index == position and self.failure.check in _RAISED):
                code = list(_refusing(code))
            if index == known:
                yield from (*code, "before = output(model, x)")
            elif index < position:
                yield from code
            else:
                yield ""
                yield from self._checked(code, str(act.__struct_config__.tag))

    def _checked(self, code: list[str], kind: str) -> Iterator[str]:
        """Yield the act after which something did not hold, and what shows that."""
        check = self.failure.check
        if check in {"exception", CRASH}:
            yield "print('expected: no error')"
            # A forward pass may be what fails.
            yield from _tried(code if kind == "mixed" else [*code, "output(model, x)"])
            return
        if check == "accepted":
            yield "print('expected: a clear error, for what the documentation refuses')"
            yield from code
            yield "print('came: no error')"
            yield "raise SystemExit(1)"
            return
        if kind not in {"mixed", "wrap"} and self._known_at() is None:
            keeps_adapters = kind != "unload" or "merge" in code[0]
            kept = "model" if keeps_adapters else "without_adapters(model)"
            yield f"before = output({kept}, x)"
            yield "tensors = snapshot(model)"
        yield from code
        if kind == "disable":
            yield "output(model, x)  # a disabled layer takes merged weights out when it is called"
        if kind == "mixed":
            yield "compare('each item as by its adapter alone', alone, mixed)"
        elif kind == "unload" and check in _OUTPUT_CHECKS:
            yield "leftovers(model, original)"
            yield "compare('as before unloading', before, output(model, x))"
        elif check == "function":
            yield from self._compared_with_formula()
            return
        else:
            yield from self._comparison(check, kind)
        yield "print('nothing differs')"

    def _comparison(self, check: str, kind: str) -> Iterator[str]:
        """Yield what shows that a check fails, after the act."""
        if check in {"identity", "disabled"}:
            came = "inside" if self._is_within(kind) else "output(model, x)"
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
            yield f"check_saved({_place(adapter)}, {key!r}, {adapter!r}, {other!r})"
        else:
            yield from _COMPARED.get(check, ())

    def _compared_with_formula(self) -> Iterator[str]:
        weight = weight_function(self.example)
        if self.example.method == "ia3" and not changes_more(self.example):
            feedforward = feedforward_layers(self.example)
            yield f"expected = scaled_by_hand(model, original, x, {feedforward!r})"
            yield "compare('the base with the factors of the formula', expected, output(model, x))"
            yield "print('nothing differs')"
            return
        if weight is None:
            yield "print('expected: the output by the formula, which this script does not compute')"
            yield "print('came:', output(model, x))"
            return
        yield f"expected = merged_by_hand(model, original, x, {weight})"
        yield "compare('the base with the weights of the formula', expected, output(model, x))"
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
        position, acts = self.failure.act, self.example.acts
        if self.failure.check != "two_ways" or not isinstance(acts[position], e.Activate):
            return None
        plan, effects = Plan.start(self.example, self.method.abilities), []
        for act in acts[: position + 1]:
            plan = after(plan, act) if refusal(plan, act) is None else plan
            effects.append(plan.effect())
        same = [index for index in range(position) if effects[index] == effects[position]]
        return same[-1] if same and same[-1] < position - 1 else None

    def _found(self, pattern: re.Pattern[str]) -> Sequence[str]:
        """Return what the failure's message says."""
        found = pattern.search(self.failure.message)
        return found.groups() if found else ["0"] + ["?"] * (pattern.groups - 1)

    def _allowed(self) -> list[str]:
        """Return the adapters that may train, or change, after the failing act."""
        plan, _ = self._followed()
        return sorted(plan.trainable or ()) if plan.enabled else []

    def _followed(self) -> tuple[Plan, set[int]]:
        """Return the plan after the failing act, and which acts the library must refuse."""
        plan = Plan.start(self.example, self.method.abilities)
        refused = set()
        for position, act in enumerate(self.example.acts[: self.failure.act + 1]):
            if refusal(plan, act) is None:
                plan = after(plan, act)
            else:
                refused.add(position)
        return plan, refused

    def _is_within(self, kind: str) -> bool:
        position = self.failure.act
        act = self.example.acts[position] if position >= 0 else None
        return kind == "disable" and isinstance(act, e.Disable) and act.within

    def _act(self, act: e.Act) -> Iterator[str]:  # noqa: C901, PLR0912, PLR0915  (one branch an act)
        """Yield the code of an act."""
        seed = self.example.network.seed
        match act:
            case e.Add(adapter=name):
                settings = next(a.settings for a in self.example.adapters if a.name == name)
                config = settings_code(self.method, settings)
                yield f"torch.manual_seed({seed})"
                yield f"model.add_adapter({name!r}, {config}{self.autocast})"
            case e.Activate(adapters=names, through_tuner=through_tuner):
                if len(names) == 1 and not through_tuner:
                    yield f"model.set_adapter({names[0]!r})"
                else:
                    shown = names[0] if len(names) == 1 else list(names)
                    yield f"model.base_model.set_adapter({shown!r})"
            case e.Disable(within=True):
                yield "with model.disable_adapter():"
                yield "    inside = output(model, x)"
            case e.Disable():
                yield "model.base_model.disable_adapter_layers()"
            case e.Enable():
                yield "model.base_model.enable_adapter_layers()"
            case e.Mode(training=training):
                yield "model.train()" if training else "model.eval()"
            case e.Fill(seed=number):
                yield f"fill(model, seed={1000 + number})"
            case e.Train():
                yield from self._train(act)
            case e.Merge(broken=True, adapters=names):
                yield "spoil(model)  # puts a NaN into an adapter"
                yield "try:"
                yield f"    model.merge_adapter({_names(names)}safe_merge=True)"
                yield "except ValueError as error:"
                yield "    print('refused, as it must be:', error)"
            case e.Merge(adapters=names, safe=safe):
                keywords = "safe_merge=True" if safe else ""
                yield f"model.merge_adapter({_names(names)}{keywords})".replace(", )", ")")
            case e.Unmerge():
                yield "model.unmerge_adapter()"
            case e.Delete(adapter=name):
                yield f"model.delete_adapter({name!r})"
                yield f"deleted = {name!r}"
            case e.Unload(merge=merge, safe=safe):
                call = f"merge_and_unload({'safe_merge=True' if safe else ''})"
                yield f"model = model.{call if merge else 'unload()'}"
            case e.Mixed(adapters=names):
                yield f"mixed = output(model, x, adapter_names={list(names)!r})"
                yield f"alone = one_by_one(model, x, {list(names)!r})"
            case e.Weighted(adapters=names, weights=weights, combination=kind, name=name):
                arguments = f"{list(names)!r}, {list(weights)!r}, {name!r}"
                more = "" if act.density is None else f", density={act.density!r}"
                yield f"model.add_weighted_adapter({arguments}, combination_type={kind!r}{more})"
            case e.Scale(adapter=name, scale=scale):
                yield "for module in model.modules():"
                yield "    if hasattr(module, 'set_scale'):"
                yield f"        module.set_scale({name!r}, {scale!r})"
            case e.Copy():
                yield "model = copy.deepcopy(model)"
            case e.Convert():
                yield from _conversion(act)
            case e.SaveLoad() | e.LoadBeside() | e.HotSwap():
                yield from self._saving(act)

    def _train(self, act: e.Train) -> Iterator[str]:
        if not act.keep_optimizer or "optimizer" not in vars(self):
            self.optimizer = "optimizer"
            yield "optimizer = torch.optim.SGD("
            yield "    [p for p in model.parameters() if p.requires_grad], lr=1.0"
            yield ")"
        seed = self.example.network.seed
        yield f"train(model, x, optimizer, steps={act.steps}, seed={seed})"

    def _saving(self, act: e.SaveLoad | e.LoadBeside | e.HotSwap) -> Iterator[str]:
        autocast, seed = self.autocast, self.example.network.seed
        yield f"torch.manual_seed({seed})"
        yield "folder = tempfile.mkdtemp()"
        if isinstance(act, e.SaveLoad):
            first = self.example.adapters[0].name
            yield "adapters, active = list(model.peft_config), model.active_adapters"
            yield "model.save_pretrained(folder)"
            yield "model = PeftModel.from_pretrained("
            yield f"    copy.deepcopy(original), {_place(first)}{_named(first)},"
            yield f"    is_trainable={act.trainable}{autocast},"
            yield ")"
            yield "for name in adapters[1:]:"
            yield "    place = folder if name == 'default' else f'{folder}/{name}'"
            yield f"    model.load_adapter(place, name, is_trainable={act.trainable}{autocast})"
            yield "if len(adapters) > 1:"
            yield "    model.base_model.set_adapter(active)"
            yield "model.eval()"
            return
        name = act.adapter
        if isinstance(act, e.HotSwap):
            yield "own = copy.deepcopy(model.state_dict())"
            yield f"fill(model, seed=77, adapter={name!r})"
            yield "before = output(model, x)"
        yield f"model.save_pretrained(folder, selected_adapters=[{name!r}])"
        if isinstance(act, e.LoadBeside):
            keywords = f"is_trainable={act.trainable}{autocast}"
            yield f"model.load_adapter({_place(name)}, {act.name!r}, {keywords})"
            return
        yield "model.load_state_dict(own)"
        if act.target_rank is not None:
            yield f"prepare_model_for_compiled_hotswap(model, target_rank={act.target_rank})"
        yield f"hotswap_adapter(model, {_place(name)}, {name!r}, torch_device='cpu')"


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


def _conversion(act: e.Convert) -> Iterator[str]:
    dtype, last = act.dtype, act.channels_last
    keywords = [] if dtype is None else [f"torch.{dtype}"]
    if last is not None:
        keywords.append(f"memory_format=torch.{'channels_last' if last else 'contiguous_format'}")
    yield f"model.to({', '.join(keywords)})"
    yield f"original.to({', '.join(keywords)})"
    if dtype is not None:
        yield f"x = x.to(torch.{dtype}) if x.is_floating_point() else x"


def _named(adapter: str) -> str:
    return "" if adapter == "default" else f", adapter_name={adapter!r}"


def _names(names: tuple[str, ...] | None) -> str:
    return "" if names is None else f"{list(names)!r}, "


def _place(adapter: str) -> str:
    return "folder" if adapter == "default" else f"folder + {'/' + adapter!r}"


def _needs_own_kernels(example: Example) -> bool:
    """Return whether oneDNN may compute a network otherwise than torch's own kernels."""
    later = (act.dtype for act in example.acts if isinstance(act, e.Convert))
    in_half = any(one not in {None, "float32"} for one in (example.network.dtype, *later))
    return in_half and any(one.kind.startswith("conv") for one in example.network.layers)


def _converted(network: e.Network) -> str:
    dtype = "" if network.dtype == "float32" else f".to(torch.{network.dtype})"
    layout = ".to(memory_format=torch.channels_last)" if network.channels_last else ""
    return dtype + layout


def _input(network: e.Network) -> str:
    first, sizes = network.layers[0], list(network.sizes)
    if first.kind == "embedding":
        return f"torch.randint({first.inputs}, {(network.batch, *sizes)!r})"
    shape: tuple[Any, ...] = (network.batch, *sizes, first.inputs)
    if first.kind.startswith("conv"):
        shape = (network.batch, first.inputs, *sizes)
    code = f"torch.randn({', '.join(map(str, shape))})"
    code += "" if network.dtype == "float32" else f".to(torch.{network.dtype})"
    if network.channels_last and len(shape) == 4:  # noqa: PLR2004  (images)
        code += ".contiguous(memory_format=torch.channels_last)"
    return code
