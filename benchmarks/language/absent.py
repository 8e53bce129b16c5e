"""What the matrix `language` has no case for."""

from typing import Final

ABSENT: Final = {
    "arrow_config": "routes between trained adapters, and trains nothing",
    "auto_mapping": "written by peft itself",
    "base_model_name_or_path": "written by peft itself",
    "exclude_modules": "the complement of target_modules",
    "fan_in_fan_out": "for layers of GPT-2, which examples/ has",
    "inference_mode": "nothing trains",
    "layers_pattern": "a name for layers_to_transform, which peft finds in this network",
    "loftq_config": "peft asks for CUDA",
    "megatron_config": "for Megatron's parallel layers",
    "megatron_core": "for Megatron's parallel layers",
    "peft_type": "written by peft itself",
    "peft_version": "written by peft itself",
    "revision": "for a hub",
    "runtime_config": "says where a start is computed",
}
"""Settings of LoRA that no case has, and why."""
