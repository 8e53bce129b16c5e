"""`init_lora_weights="loftq"` raises `TypeError` on convolutions and embeddings.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

Expected: The weights start as LoftQ says, or an error names what is not supported.

Cause: `LoraLayer.loftq_init(self, adapter_name, config)` in `tuners/lora/layer.py` takes the config, and
the linear layer's `update_layer` passes it. The same methods of `Embedding` and `_ConvNd` call
`self.loftq_init(adapter_name)`; so does `tuners/lora/tp_layer.py`. They need
`self.loftq_init(adapter_name, config)`. Whether LoftQ's quantization, which needs CUDA, then
accepts weights of four dimensions was not tried.
"""
# peft==0.21.2

from peft import LoftQConfig, LoraConfig, get_peft_model
from torch import nn

for layer in (nn.Conv2d(4, 8, 3), nn.Embedding(16, 8)):
    config = LoraConfig(
        r=2, target_modules=["0"], init_lora_weights="loftq", loftq_config=LoftQConfig()
    )
    try:
        get_peft_model(nn.Sequential(layer), config)
        print(layer, "works")
    except TypeError as error:
        print(layer, "TypeError:", error)

# It prints:
# Conv2d(4, 8, kernel_size=(3, 3), stride=(1, 1)) TypeError: LoraLayer.loftq_init() missing 1 required positional argument: 'config'
# Embedding(16, 8) TypeError: LoraLayer.loftq_init() missing 1 required positional argument: 'config'
