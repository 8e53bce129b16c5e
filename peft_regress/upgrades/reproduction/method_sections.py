"""The parts of a script that depend on the method: adapting, filling and updating a model."""

from __future__ import annotations

from typing import Final

WRAP: Final = """\
targets = [
    name
    for name, module in model.named_modules()
    if $RULE
]

with phase("wrap"):
    import peft

$BEFORE
    config = peft.$CONFIG(
        target_modules="|".join(re.escape(name) for name in targets),  # a pattern: matched in full
$SETTINGS
    )
    head = model.get_submodule("$HEAD")
    torch.manual_seed(0)
    model = peft.get_peft_model(model, config)
$FREEZE
    head.requires_grad_(True)
"""

WITHOUT_CUDA_EXTENSION: Final = """\
    import peft.tuners.boft.layer

    peft.tuners.boft.layer._FBD_CUDA = False  # or it looks for a compiler at every layer

"""

FREEZE: Final = """\
    for name, parameter in model.named_parameters():
        if "$PART" in name:
            parameter.requires_grad = False
"""

SELECT: Final = """\
model.requires_grad_(False)
model.get_submodule("$HEAD").requires_grad_(True)
"""

SELECT_ALL: Final = """\
model.requires_grad_(True)
"""

SELECT_BIASES: Final = """\
for name, parameter in model.named_parameters():
    if name.endswith("bias"):
        parameter.requires_grad = True
"""

SELECT_NORMALIZATION: Final = """\
for module in model.modules():
    if isinstance(module, $NORMALIZATION):
        module.requires_grad_(True)
"""

FOLLOW_STATISTICS: Final = """\
for module in model.modules():  # statistics follow the images
    if isinstance(module, nn.BatchNorm2d):
        module.train()
        module.momentum = 0.1
"""

GALORE: Final = """\
with phase("wrap"):
    from galore_torch import GaLoreAdamW
    from galore_torch.galore_projector import GaLoreProjector

    class Projector(GaLoreProjector):
        # The library takes two dimensions; a convolution is (out, in * height * width).
        def project(self, gradient, step):
            self.shape = gradient.shape
            return super().project(gradient.flatten(1), step)

        def project_back(self, low_rank):
            return super().project_back(low_rank).view(self.shape)
$CLONE

    settings = $SETTINGS
    matrices = [p for p in model.parameters() if p.ndim in (2, 4)]
    others = [p for p in model.parameters() if p.ndim not in (2, 4)]
    groups = [{"params": matrices, **settings}, {"params": others}]
    optimizer = GaLoreAdamW(groups, lr=$RATE, no_deprecation_warning=True)
    for parameter in matrices:
        optimizer.state[parameter]["projector"] = Projector(**settings)
"""

CLONE: Final = """\

        def get_orthogonal_matrix(self, weights, rank, type):
            return super().get_orthogonal_matrix(weights, rank, type).clone()
"""

# --- Its update -----------------------------------------------------------------------------------

ADAMW: Final = """\
trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
optimizer = torch.optim.AdamW(trained, lr=$RATE, eps=1e-6, weight_decay=0.0, foreach=False)
"""

ADALORA: Final = (
    ADAMW
    + """\
optimizer.register_step_post_hook(lambda *_: model.base_model.update_and_allocate(1))
"""
)

LORA_PLUS: Final = """\
with phase("step"):
    from peft.optimizers import create_loraplus_optimizer

    optimizer = create_loraplus_optimizer(
        model, torch.optim.AdamW, lr=$RATE, loraplus_lr_ratio=4, eps=1e-6, foreach=False
    )
"""

LORA_FA: Final = """\
with phase("step"):
    from peft.optimizers import create_lorafa_optimizer

    optimizer = create_lorafa_optimizer(model, r=$RANK, lora_alpha=$RANK, lr=$RATE)
"""

# --- Numbers in its adapter -----------------------------------------------------------------------

FILL: Final = """\
parts = $PARTS
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        if any(part in name for part in parts):
            drawn = torch.randn(parameter.shape, generator=generator)
$FILLING
"""

FILL_BY_FAN_IN: Final = """\
parameter.copy_(0.3 * drawn / math.prod(parameter.shape[1:]) ** 0.5)
"""

FILL_BY_SCALE: Final = """\
if "$SCALES" in name:
    parameter.mul_(1 + 0.1 * drawn)
else:
    parameter.copy_(0.3 * drawn / math.prod(parameter.shape[1:]) ** 0.5)
"""

FILL_ONLY_SCALES: Final = """\
parameter.mul_(1 + 0.1 * drawn)
"""
