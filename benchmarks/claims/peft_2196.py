"""peft#2196 by the paper's first author: LoRA on ResNet-50 doubles the memory of activations.

Printed in MiB at batch 16, with 317,772 of 23,827,853 parameters: rank 4 on all convolutions, one
class. Here on 16x3x224x224, in train mode as printed, and in eval mode, as the gate has it.
"""

import peft
import torchvision

from peft_regress import lean
from peft_regress.cost import RandomTensor, training_cost

found, images = {"printed": 1310.95, "LoRA, printed": 2618.32}, RandomTensor((16, 3, 224, 224))


def add(name, model):
    found[name] = training_cost(model, images).step.peak_activation_bytes / 2**20


model = torchvision.models.resnet50(num_classes=1)
add("full", model)
layers = [name for name, layer in model.named_modules() if type(layer).__name__ == "Conv2d"]
model = peft.get_peft_model(model, peft.LoraConfig(r=4, target_modules=layers))
for mode in ("train", "eval"):
    add(f"LoRA, {mode}", model.train(mode == "train"))
    leaner = lean(model, images)
    add(f"lean, {mode}", model)
    leaner.undo()
print(model.get_nb_trainable_parameters(), {name: round(mib, 2) for name, mib in found.items()})
