"""A detector with two heads, both trained in full, and a loss of its own over their outputs."""

from peft import LoraConfig
from torch.nn.functional import cross_entropy, l1_loss
from torch.optim import AdamW

from fine_tunings.made_up import boxes
from fine_tunings.networks import Detector
from peft_regress import FineTune


def loss(model, batch):
    found = model(batch["images"])
    return l1_loss(found["boxes"], batch["boxes"]) + cross_entropy(found["labels"], batch["labels"])


CASE = FineTune(
    "boxes/lora-r4/detector",
    model=Detector,
    data=boxes,
    adapter=LoraConfig(r=4, target_modules=r"trunk\.layer.*conv[123]"),
    also_train=["boxes", "labels"],
    loss=loss,
    mode="eval",
    optimizer=lambda model: AdamW(model.parameters(), lr=0.01, foreach=False),
    steps=15,
)
