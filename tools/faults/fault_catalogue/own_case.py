"""Cases for what no built-in one has: what peft saves beside an adapter, and a language model."""

import sys
from collections import OrderedDict
from importlib import import_module
from pathlib import Path
from typing import Any, Final, NamedTuple

from torch import nn

from peft_regress import FineTune, NamedConfig
from peft_regress.catalogue.tasks.digits import SHIFT

sys.path.append(str(Path(__file__).resolve().parents[3]))
_LANGUAGE: Final = import_module("benchmarks.language.cases").CASES


def _net() -> nn.Module:
    """Return a small network for images (batch, 3, height, width)."""
    body = nn.Sequential(
        nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()
    )
    pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
    return nn.Sequential(OrderedDict(body=body, pool=pool, head=nn.Linear(128, 5)))


def _case(name: str, **settings: Any) -> FineTune:
    settings |= {"r": 4, "target_modules": ["body.0", "body.2"], "modules_to_save": ["head"]}
    adapter = NamedConfig("LoraConfig", settings)
    return FineTune(f"shift/lora-r4/{name}", model=_net, data=SHIFT.load, adapter=adapter)


OWN: Final = _case("small", bias="lora_only")
# peft refuses a second adapter beside one with biases.
OWN_WITHOUT_BIASES: Final = _case("small-without-biases")
OWN_CASES: Final = {one.id: one for one in (OWN, OWN_WITHOUT_BIASES, *_LANGUAGE)}


class OtherCase(NamedTuple):
    """A case in which faults of LoRA are tried as well; `layer` is its `CONVOLUTION`."""

    words: str
    id: str
    layer: str


CONVOLUTION: Final = "lora.layer:_ConvNd"
OTHER_CASES: Final = {
    "own": OtherCase("an own case", OWN.id, CONVOLUTION),
    "vera": OtherCase("VeRA", "folio/vera-r16/llama", "vera.layer:Linear"),
    "ia3": OtherCase("IA3", "folio/ia3/llama", "ia3.layer:Linear"),
    "prefix": OtherCase("a prefix", "folio/prefix/llama", "prefix_tuning.model:PrefixEncoder"),
    "fourierft": OtherCase("FourierFT", "folio/fourierft/llama", "fourierft.layer:FourierFTLinear"),
    "oft": OtherCase("OFT", "folio/oft/llama", "oft.layer:Linear"),
}
"""By the first word of the names of their faults."""
