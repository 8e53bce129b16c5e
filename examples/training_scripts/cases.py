"""The scripts of this folder as cases: none of them knows that it is measured."""

from peft_regress import Script

CASES = [
    Script("trainer/lora-r4/bert", "training_scripts/trainer.py"),
    Script("sft/lora-r4/llama", "training_scripts/sft.py"),
    Script("accelerate/lora-r4/gpt2", "training_scripts/accelerate_loop.py"),
    Script("lightning/lora-r4/vit", "training_scripts/lightning_module.py"),
    Script("plain/lora-r4/resnet18", "training_scripts/plain_loop.py"),
]
