"""Cases for what no built-in one has: peft itself trains and saves parts beside the adapter."""

from typing import Any, Final

from torch import Tensor, nn

from peft_regress import FineTune
from peft_regress.catalogue.tasks.digits import SHIFT


class _Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.ReLU()
        )
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten())
        self.head = nn.Linear(128, 5)

    def forward(self, x: Tensor) -> Tensor:
        """x: (batch, 3, height, width)."""
        logits: Tensor = self.head(self.pool(self.body(x)))
        return logits


def _adapter(**settings: Any) -> Any:
    from peft import LoraConfig

    return LoraConfig(
        r=4, target_modules=["body.0", "body.2"], modules_to_save=["head"], **settings
    )


OWN: Final = FineTune(
    "shift/lora-r4/small", model=_Net, data=SHIFT.load, adapter=_adapter(bias="lora_only")
)
# peft refuses a second adapter beside one with biases.
OWN_WITHOUT_BIASES: Final = FineTune(
    "shift/lora-r4/small-without-biases", model=_Net, data=SHIFT.load, adapter=_adapter()
)
OWN_CASES: Final = {one.id: one for one in (OWN, OWN_WITHOUT_BIASES)}
