"""DoRA on a bfloat16 base is not the identity at the start.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

The adapter is cast to float32, but its magnitude was computed in bfloat16 before that. The forward
pass computes the norms in float32 and divides the magnitude by them. So the outputs of each layer
start with an error of up to 0.4 %, and the network's output has an error too.

Expected: A magnitude equal to the norm of the weight's rows, and an untrained adapter that does not change the
output: B is zero, so DoRA starts from W.

Cause: `DoraLinearLayer.update_layer` (`tuners/lora/dora.py`) calls `get_weight_norm` on weights of the
base's type, before `cast_adapter_dtype` makes the magnitude float32; the `forward` methods take the
norm in float32, which the input is cast to (linear) or the update has (convolutions). If the
adapter will be upcast, the magnitude could be computed from `weight.float()` after the cast. With
the float32 norms put in by hand, the script's last line for each layer prints `True`.
"""
# peft==0.21.2

import torch
from peft import LoraConfig, get_peft_model
from torch import nn

torch.manual_seed(0)
for layer, image in (
    (nn.Linear(64, 64), torch.randn(8, 64)),
    (nn.Conv2d(64, 64, 1), torch.randn(8, 64, 4, 4)),
):
    config = LoraConfig(r=2, target_modules=["0"], use_dora=True)
    model = get_peft_model(nn.Sequential(layer.bfloat16()), config)
    adapted = model.base_model.model[0]
    magnitude = adapted.lora_magnitude_vector["default"].weight.flatten()
    norms = adapted.base_layer.weight.float().flatten(1).norm(dim=1)
    with model.disable_adapter():
        expected = model(image.bfloat16())
    print(type(layer).__name__)
    print(
        "  magnitude has bfloat16's digits:", torch.equal(magnitude, magnitude.bfloat16().float())
    )
    print(f"  off by up to {(magnitude / norms - 1).abs().max():.1%}")
    print("  untrained, the output is the base's:", torch.equal(model(image.bfloat16()), expected))

# It prints:
# Linear
#   magnitude has bfloat16's digits: True
#   off by up to 0.3%
#   untrained, the output is the base's: False
# Conv2d
#   magnitude has bfloat16's digits: True
#   off by up to 0.3%
#   untrained, the output is the base's: False
