"""`hotswap_adapter` ignores `rank_pattern` and `alpha_pattern`.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`hotswap_adapter` sets the scaling of each layer from the configuration of the new adapter. It takes
the general rank and alpha even where `rank_pattern` or `alpha_pattern` has another value for a layer.
So the model computes something else than one that loads the same file. An adapter with
`bias="lora_only"` raises `KeyError` in the middle of the swap.

Expected: The scaling of the loaded model, and the same output, in each line; for biases a clear error before
anything is swapped, or the swap.

Cause: `hotswap_adapter_from_state_dict` (`utils/hotswap.py`) looks the pattern up by the key of a tensor,
such as `base_model.model.1.lora_A.default.weight`. `get_pattern_key` expects the name of a layer at
the end, so it finds nothing. With

```python
layer = module_name.removeprefix("base_model.model.")
r_key = get_pattern_key(config.rank_pattern.keys(), layer)
alpha_key = get_pattern_key(config.alpha_pattern.keys(), layer)
```

both patterns give the scaling and the output of the loaded model. Biases are not among the keys
that the function expects in the model (`"lora_" in key`), so `missing_keys.remove` raises.
`check_hotswap_configs_compatible` can refuse a `bias` other than "none" with a `ValueError`.
"""
# peft==0.21.2

import tempfile

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.utils.hotswap import hotswap_adapter
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


def adapted(seed, **settings):
    config = LoraConfig(r=4, lora_alpha=8, target_modules=["0", "1"], **settings)
    model = get_peft_model(net(), config)
    torch.manual_seed(seed)
    for parameter in model.parameters():
        if parameter.requires_grad:
            nn.init.normal_(parameter)
    return model


x = torch.ones(1, 8)
for settings in (
    {},
    {"rank_pattern": {"1": 2}},
    {"alpha_pattern": {"1": 16}},
    {"bias": "lora_only"},
):
    model, other = adapted(1, **settings), adapted(2, **settings)
    with tempfile.TemporaryDirectory() as folder:
        other.save_pretrained(folder)
        loaded = PeftModel.from_pretrained(net(), folder)
        try:
            hotswap_adapter(model, folder, "default", torch_device="cpu")
        except KeyError as error:
            print(settings, "KeyError:", error)
            continue
    scales = [[layer.scaling["default"] for layer in m.base_model.model] for m in (model, loaded)]
    same = torch.allclose(model(x), loaded(x), atol=1e-4)
    print(f"{settings} scaling {scales[0]}, loaded {scales[1]}, same output: {same}")

# It prints:
# {} scaling [2.0, 2.0], loaded [2.0, 2.0], same output: True
# {'rank_pattern': {'1': 2}} scaling [2.0, 2.0], loaded [2.0, 4.0], same output: False
# {'alpha_pattern': {'1': 16}} scaling [2.0, 2.0], loaded [2.0, 4.0], same output: False
# {'bias': 'lora_only'} KeyError: 'base_model.model.0.base_layer.bias'
