"""Loading a pruned AdaLoRA adapter warns that its `rank_pattern` was ignored, though it was not.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

Expected: No warning. The ranks were saved by AdaLoRA itself and have been applied: the loaded layers have
rank 2, not `init_r`, 4. A user who reads the warning will think that the adapter is broken. Under
`-W error` the adapter cannot be loaded.

Cause: `BaseTuner.inject_adapter` in `tuners/tuners_utils.py` checks the keys of every config's
`rank_pattern` against the names of the targeted modules. AdaLoRA's `rank_pattern` is something
else with the same name: its keys are names of parameters (`0.lora_E`), its values are masks, and
`AdaLoraModel.resize_modules_by_rank_pattern` reads it. The check could apply only to methods that look
up their ranks with `get_pattern_key`, or skip AdaLoRA.
"""
# peft==0.21.2

import tempfile
import warnings

import torch
from peft import AdaLoraConfig, PeftModel, get_peft_model
from torch import nn


def base():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 8))


steps = 6
config = AdaLoraConfig(
    init_r=4, target_r=2, tinit=1, tfinal=1, total_step=steps, target_modules=["0", "1"]
)
model = get_peft_model(base(), config)
optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
for step in range(steps):
    optimizer.zero_grad()
    model(torch.ones(2, 8)).square().sum().backward()
    optimizer.step()
    model.base_model.update_and_allocate(step)
with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    model.save_pretrained(folder)
    loaded = PeftModel.from_pretrained(base(), folder)
for warning in caught:
    if "rank_pattern" in str(warning.message):
        print(f"{warning.category.__name__}: {warning.message}")
ranks = [len(p) for name, p in loaded.named_parameters() if "lora_A" in name]
print(
    "ranks kept in training:",
    [sum(mask) for mask in model.peft_config["default"].rank_pattern.values()],
)
print("ranks once loaded:", ranks)

# It prints:
# RuntimeWarning: The following rank_pattern keys did not match any targeted module and were ignored: ['0.lora_E', '1.lora_E'].
# ranks kept in training: [2, 2]
# ranks once loaded: [2, 2]
