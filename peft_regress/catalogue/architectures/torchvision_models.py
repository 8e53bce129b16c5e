"""The classifiers of torchvision: four by default, all others by name. No torch at import."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from torch import nn

# Auxiliary classifiers would return more than logits in train mode, and train three heads.
# `init_weights` is torchvision's default, but without it torchvision warns.
_WITHOUT_AUXILIARY: Final = {"aux_logits": False, "init_weights": True}
_OPTIONS: Final = dict.fromkeys(("googlenet", "inception_v3"), _WITHOUT_AUXILIARY)


@dataclass(frozen=True, kw_only=True)
class TorchvisionModel:
    """A classifier from `torchvision.models`, built without pretrained weights."""

    name: str
    """torchvision's own name."""
    head: str
    """The qualified name of the layer that gives the logits."""
    matrices: tuple[str, ...] = ("default", "extended")

    @property
    def options(self) -> dict[str, Any]:
        """The arguments for torchvision besides the number of classes."""
        return _OPTIONS.get(self.name, {})

    def build(self, *, num_classes: int, seed: int) -> "nn.Module":
        """Build the model with weights drawn under `seed`; leave the global generators alone."""
        import torch  # listing names must not cost the import

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _build(self.name, num_classes)


class TorchvisionFamily:
    """Every classifier of `torchvision.models` by its name, for costs and for suites of your own.

    They belong to no matrix. The head of each is its last layer.
    """

    def names(self) -> tuple[str, ...]:
        """List torchvision's names of its classifiers, without detectors and the like."""
        from torchvision import models  # only for a name that is not registered: takes 2 s

        return tuple(models.list_models(module=models))

    def find(self, name: str) -> TorchvisionModel | None:
        """Return the classifier of that name, or None."""
        if name not in self.names():
            return None
        import torch

        from peft_regress.cost.stand_ins import without_weights

        # Small tensors are real and may be drawn at random.
        with torch.random.fork_rng(devices=[]), without_weights():
            *_, (last, _) = _build(name, num_classes=10).named_parameters()
        return TorchvisionModel(name=name, head=last.rpartition(".")[0], matrices=())


def _build(name: str, num_classes: int) -> "nn.Module":
    from torchvision.models import get_model

    model = get_model(name, weights=None, num_classes=num_classes, **_OPTIONS.get(name, {}))
    return cast("nn.Module", model)


RESNET18 = TorchvisionModel(name="resnet18", head="fc")
MOBILENET_V2 = TorchvisionModel(name="mobilenet_v2", head="classifier.1")
MOBILENET_V3_SMALL = TorchvisionModel(name="mobilenet_v3_small", head="classifier.3")
SHUFFLENET_V2_X0_5 = TorchvisionModel(name="shufflenet_v2_x0_5", head="fc")
TORCHVISION = TorchvisionFamily()
