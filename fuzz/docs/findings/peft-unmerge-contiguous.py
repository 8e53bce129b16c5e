"""After unmerging OFT or BOFT, the base cannot be saved by safetensors.

Seen with peft 0.21.2, torch 2.13.0, Python 3.11, on CPU.

`merge_adapter()` and `unmerge_adapter()` give the base weights back. OFT and BOFT leave them as
transposed views, which safetensors refuses to write.

Expected: `saved` three times. Merging keeps the weights contiguous since huggingface/peft#1994.

Cause: `unmerge` in `tuners/oft/layer.py` and `tuners/boft/layer.py` sets a transposed product:
`self.set_base_weight(orig_weight.to(orig_dtype))` in OFT, and the same times `1 / boft_s` in BOFT.
`merge` has `.contiguous()` before `.to(orig_dtype)` at this place. With it in `unmerge` of both, the
script prints `saved` three times.
"""
# peft==0.21.2

import tempfile

from peft import BOFTConfig, LoraConfig, OFTConfig, get_peft_model
from safetensors.torch import save_file
from torch import nn

for config in (
    LoraConfig(r=2, target_modules=["0"]),
    OFTConfig(oft_block_size=4, target_modules=["0"]),
    BOFTConfig(boft_block_size=4, target_modules=["0"]),
):
    model = get_peft_model(nn.Sequential(nn.Linear(8, 8)), config)
    model.merge_adapter()
    model.unmerge_adapter()
    base = model.unload()
    with tempfile.TemporaryDirectory() as folder:
        try:
            save_file(base.state_dict(), f"{folder}/base.safetensors")
            print(config.peft_type.value, "saved")
        except ValueError as error:
            print(config.peft_type.value, "ValueError:", str(error).partition(" which")[0])

# It prints:
# LORA saved
# OFT ValueError: You are trying to save a non contiguous tensor: `0.weight`
# BOFT ValueError: You are trying to save a non contiguous tensor: `0.weight`
