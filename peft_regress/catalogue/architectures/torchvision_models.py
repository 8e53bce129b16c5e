"""The classifiers of torchvision, as they come: four by default, any other one by name.

No torch at import.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, cast

if TYPE_CHECKING:
    from torch import nn

__all__ = [
    "MOBILENET_V2",
    "MOBILENET_V3_SMALL",
    "RESNET18",
    "SHUFFLENET_V2_X0_5",
    "TORCHVISION",
    "TorchvisionFamily",
    "TorchvisionModel",
]

# Their auxiliary classifiers would return more than logits in train mode, and train three heads.
# The initialization is named since leaving it out warns; it is the one that torchvision takes then.
_WITHOUT_AUXILIARY: Final = {"aux_logits": False, "init_weights": True}
_OPTIONS: Final[dict[str, dict[str, Any]]] = {
    "googlenet": _WITHOUT_AUXILIARY,
    "inception_v3": _WITHOUT_AUXILIARY,
}


@dataclass(frozen=True, kw_only=True)
class TorchvisionModel:
    """A classifier from `torchvision.models`, built without pretrained weights.

    `name` is torchvision's own name, `head` the qualified name of the layer that gives the logits.
    """

    name: str
    head: str
    matrices: tuple[str, ...] = ("default", "extended")

    @property
    def options(self) -> dict[str, Any]:
        """What torchvision is told besides the number of classes."""
        return _OPTIONS.get(self.name, {})

    def build(self, *, num_classes: int, seed: int) -> nn.Module:
        """Build the model with random weights drawn under `seed`; global generators stay as is."""
        import torch  # listing names must not cost the import

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return _build(self.name, num_classes)


class TorchvisionFamily:
    """Every classifier of `torchvision.models` by its name there, for costs and own suites.

    None of them belongs to a matrix. Their heads are found by a rule, see `output_layer`.
    """

    def names(self) -> tuple[str, ...]:
        """List torchvision's names of its classifiers; detectors and the like are none."""
        from torchvision import models  # only for a name that is not registered: 2 s cold

        return tuple(models.list_models(module=models))

    def find(self, name: str) -> TorchvisionModel | None:
        """Return the classifier of that name, or None; raises `InputError` without a clear head."""
        if name not in self.names():
            return None
        from peft_regress.catalogue.architectures.output_layer import output_layer

        head = output_layer(lambda num_classes: _build(name, num_classes))
        return TorchvisionModel(name=name, head=head, matrices=())


def _build(name: str, num_classes: int) -> nn.Module:
    from torchvision.models import get_model

    model = get_model(name, weights=None, num_classes=num_classes, **_OPTIONS.get(name, {}))
    return cast("nn.Module", model)


RESNET18 = TorchvisionModel(name="resnet18", head="fc")
MOBILENET_V2 = TorchvisionModel(name="mobilenet_v2", head="classifier.1")
MOBILENET_V3_SMALL = TorchvisionModel(name="mobilenet_v3_small", head="classifier.3")
SHUFFLENET_V2_X0_5 = TorchvisionModel(name="shufflenet_v2_x0_5", head="fc")
TORCHVISION = TorchvisionFamily()
