"""Examples of the fuzzer, and a library in memory that has defects to find."""

from dataclasses import dataclass, field
from typing import Any

from hypothesis import strategies as st

from peft_fuzz.acts import Disable, Enable, Fill, Merge, Unmerge
from peft_fuzz.example import Example, Failure, Outcome
from peft_fuzz.networks.network import Adapter, Layer, Network
from peft_fuzz.scripts.script import script_of
from peft_fuzz.search.causes import cause_of
from peft_fuzz.search.findings import Finding

_MERGED = (Fill(), Merge())
PACKAGES = {"peft": "0.21.2", "torch": "2.13.0"}


def layer(kind="linear", **fields):
    if kind.startswith("conv"):
        size = int(kind[4])
        fields = {"kernel": (3,) * size, "padding": (1,) * size, **fields}
    return Layer(**{"name": "layer0", "kind": kind, "inputs": 4, "outputs": 4, **fields})


def example(*layers, acts=_MERGED, **fields):
    network = Network(layers=layers or (layer(),), **fields.pop("network", {}))
    settings = {"target_modules": ["layer0"], **fields.pop("settings", {})}
    adapters = fields.pop("adapters", (Adapter(name="default", settings=settings),))
    return Example(network=network, adapters=adapters, acts=acts, **{"method": "lora", **fields})


def failure(check="merged", act=1, **fields):
    return Failure(check=check, act=act, message="The output differs by 1.0.", **fields)


def finding(one=None, failed=None, **fields):
    one, failed = one or example(), failed or failure()
    cause = cause_of(one, failed)
    return Finding(cause=cause, example=one, failure=failed, packages=PACKAGES, **fields)


def script(*given, **fields):
    made = given[0] if given and isinstance(given[0], Finding) else finding(*given, **fields)
    return script_of(made.example, made.failure, made.packages)


@st.composite
def drawn(draw):
    kinds = st.sampled_from(["linear", "conv1d", "conv2d", "conv3d"])
    modes = st.sampled_from(["zeros", "reflect", "circular"])
    layers = []
    for number in range(draw(st.integers(1, 2))):
        kind = draw(kinds)
        more = {} if kind == "linear" else {"padding_mode": draw(modes)}
        layers.append(layer(kind, name=f"layer{number}", bias=draw(st.booleans()), **more))
    act = st.sampled_from([Fill(), Merge(), Merge(safe=True), Unmerge(), Disable(), Enable()])
    settings = draw(st.dictionaries(st.sampled_from(["use_dora", "lora_bias"]), st.just(True)))
    return example(
        *layers,
        acts=tuple(draw(st.lists(act, max_size=6))),
        settings=settings,
        network={"sizes": (5,) * draw(st.integers(0, 3)), "batch": draw(st.integers(1, 3))},
    )


@dataclass
class Library:
    """Runs examples; `defects` are functions that say whether an example fails at an act."""

    defects: dict[str, Any] = field(default_factory=dict)
    lived: list[Example] = field(default_factory=list)

    def run(self, one):
        self.lived.append(one)
        for position, act in enumerate(one.acts):
            for check, fails in self.defects.items():
                if fails(one, act):
                    return Outcome(failure=failure(check, position), acts=position)
        return Outcome(acts=len(one.acts))


def reflects(one, act):
    filled = any(isinstance(before, Fill) for before in one.acts[: one.acts.index(act)])
    modes = {each.padding_mode for each in one.network.layers if each.kind != "linear"}
    return isinstance(act, Merge) and filled and bool(modes & {"reflect", "circular"})


def loses_bias(one, act):
    return isinstance(act, Merge) and bool(one.adapters[0].settings.get("lora_bias"))
