"""IA3 ignores `feedforward_modules` of a layer's second adapter.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

IA3 scales the inputs of feed-forward layers and the outputs of others; `feedforward_modules` says
which layer is which. A second adapter of a layer takes the first one's answer without a word.

Expected: The same twice, or a clear error when the second adapter is added. Such an adapter trains another
function than its configuration says, and its file does not fit a model that has it alone.

Cause: `IA3Layer.is_feedforward` (`tuners/ia3/layer.py`) is one flag for the layer, set by its first
adapter. The smallest change is a `ValueError` in `IA3Model._create_and_replace`
(`tuners/ia3/model.py`), before `update_layer`, if `target.is_feedforward != is_feedforward`. Serving
both kinds needs a flag for each adapter, as other settings have it.
"""
# peft==0.21.2

from peft import IA3Config, get_peft_model
from torch import nn


def config(feedforward):
    return IA3Config(target_modules=["0"], feedforward_modules=["0"] if feedforward else [])


def scales(model):
    layer = model.base_model.model[0]
    numbers = layer.ia3_l["second"].numel()
    return {6: "the 6 inputs", 4: "the 4 outputs"}[numbers]


alone = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config(True), adapter_name="second")
print("alone, the adapter scales", scales(alone))
both = get_peft_model(nn.Sequential(nn.Linear(6, 4)), config(False), adapter_name="first")
both.add_adapter("second", config(True))
print("after another one, it scales", scales(both))

# It prints:
# alone, the adapter scales the 6 inputs
# after another one, it scales the 4 outputs
