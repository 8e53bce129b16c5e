"""EfficientNet-Lite0 with its ImageNet weights adapts to photographs that are blurred and noisy."""

from peft import LoraConfig

from fine_tunings.networks import photo_classifier
from fine_tunings.photos import accuracy, corrupted_crops
from peft_regress import Budget, FineTune, OwnMetric


def accuracy_before(model, batches):
    with model.disable_adapter():
        return accuracy(model, batches)


BEFORE = OwnMetric(measure=accuracy_before, unit="fraction", direction="none")

CASE = FineTune(
    "corrupted/lora-r4/efficientnet_lite0",
    model=lambda: photo_classifier(64),
    data=lambda: corrupted_crops(64),
    adapter=LoraConfig(r=4, target_modules=r"blocks\.\d+\.(expand|project)\.conv"),
    mode="eval",  # BatchNorm keeps its statistics
    steps=10,
    batch=8,
    seeds=2,
    metrics={"accuracy_before": BEFORE},
    budget=Budget(score=0.55, ship="1 MB"),
)
