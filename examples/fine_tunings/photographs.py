"""EfficientNet-Lite0 with its ImageNet weights adapts to photographs that are blurred and noisy."""

from peft import LoraConfig

from fine_tunings.networks import photo_classifier
from fine_tunings.photos import corrupted_crops
from peft_regress import Budget, FineTune, OwnMetric


def accuracy_before(model, batches):
    with model.disable_adapter():
        right = [(model(images).argmax(1) == labels).float() for images, labels in batches]
    return sum(part.sum().item() for part in right) / sum(map(len, right))


CASE = FineTune(
    "corrupted/lora-r4/efficientnet_lite0",
    model=lambda: photo_classifier(64),
    data=lambda: corrupted_crops(64),
    adapter=LoraConfig(r=4, target_modules=r"blocks\.\d+\.(expand|project)\.conv"),
    mode="eval",  # BatchNorm keeps its statistics
    steps=10,
    batch=8,
    seeds=2,
    metrics={
        "accuracy_before": OwnMetric(measure=accuracy_before, unit="fraction", direction="none")
    },
    budget=Budget(score=0.55, ship="1 MB"),
)
