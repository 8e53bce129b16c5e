"""The text that a reproduction is put together from, in the order in which it stands there.

What is in capitals after a dollar sign is filled in, by `fill_in`.
"""

from __future__ import annotations

from string import Template
from typing import Final


def fill_in(section: str, **values: str) -> str:
    """Return a section with its values; a line that is nothing but an empty value goes."""
    for name, value in values.items():
        if not value:
            section = section.replace(f"${name}\n", "")
    return Template(section).substitute({name: v.rstrip("\n") for name, v in values.items()})


HEADER: Final = '''\
"""$TITLE: prints one fact a line, to compare releases by."""
'''

VERSIONS: Final = """\
for package in $PACKAGES:
    print(f"{package}: {metadata.version(package)}")


@contextlib.contextmanager
def phase(name):
    try:
        yield
    except Exception as error:
        message = (str(error).splitlines() or [""])[0]
        print(f"error: {type(error).__name__}: {message} ({name})")
        raise SystemExit from None
"""

# --- The model ------------------------------------------------------------------------------------

BUILD: Final = """\
torch.manual_seed(0)
model = torchvision.models.get_model("$ARCHITECTURE", weights=None, num_classes=10$OPTIONS).eval()
images = torch.randn(4, 3, 224, 224)
"""

STATISTICS: Final = """\
for module in model.modules():  # or the logits of an untrained model vanish
    if isinstance(module, nn.BatchNorm2d):
        module.momentum = 1.0
with torch.no_grad():
    model.train()(images)
model.eval()
"""

BFLOAT16: Final = """\
model, images = model.to(torch.bfloat16), images.to(torch.bfloat16)
"""

LOGITS: Final = """\
def logits_of(model):
    with torch.no_grad():
        return $CALL
"""

OF_BASE: Final = """\
of_base = logits_of(model)
"""

LOGITS_IN: Final = {
    "float32": "model(images)",
    "bfloat16": "copy.deepcopy(model).float()(images.float())",
}

# --- The method -----------------------------------------------------------------------------------

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

    peft.tuners.boft.layer._FBD_CUDA = False  # else it looks for a compiler at every layer

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

# --- What a step costs ----------------------------------------------------------------------------

TRAINABLE_PARAMS: Final = """\
print("trainable_params:", sum(p.numel() for p in model.parameters() if p.requires_grad))
"""

IDENTITY_AT_START: Final = """\
with phase("forward"):
    difference = (logits_of(model) - of_base).abs().max()
print("identity_at_start:", bool(difference <= $TOLERANCE * of_base.abs().max()))
"""

SAVED: Final = """\
saved = {}  # storages by address, of weights too


def keep(tensor):
    saved[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage()
    return tensor
"""

OPERATORS: Final = """\
class Operators(TorchDispatchMode):
    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count += func.namespace == "aten"
        return func(*args, **(kwargs or {}))


operators = Operators()
"""

FORWARD: Final = """\
loss = functional.cross_entropy(model(images[:1]).float(), torch.tensor([0]))
"""

FORWARD_FLOPS: Final = """\
print("forward_flops:", forward.get_total_flops())
"""

SAVED_FOR_BACKWARD_BYTES: Final = """\
print("saved_for_backward_bytes:", sum(storage.nbytes() for storage in saved.values()))
"""

BACKWARD: Final = """\
loss.backward()
"""

BACKWARD_FLOPS: Final = """\
print("backward_flops:", backward.get_total_flops())
"""

GROUPED: Final = """\
# FlopCounterMode takes the weight gradient of a grouped convolution `groups` times too often.
"""

STEP: Final = """\
optimizer.step()
"""

ATEN_OPS: Final = """\
print("aten_ops:", operators.count)  # $COUNTED
"""

OPTIMIZER_STATE_BYTES: Final = """\
held = {}
for state in optimizer.state.values():
    for value in (*state.values(), getattr(state.get("projector"), "ortho_matrix", None)):
        if isinstance(value, torch.Tensor):  # of a slice, the storage that it keeps alive
            held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
print("optimizer_state_bytes:", sum(held.values()))
"""

# --- What it computes -----------------------------------------------------------------------------

LOSS_AFTER_STEP: Final = """\
with phase("forward"), torch.no_grad():
    logits = model(images).double()
print(f"loss_after_step: {functional.cross_entropy(logits, torch.arange(4)):.4g}")
"""

FILL: Final = """\
generator = torch.Generator().manual_seed(0)
with torch.no_grad():
    for name, parameter in sorted(model.named_parameters(), key=lambda item: item[0]):
        if parameter.requires_grad and not name.startswith("base_model.model.$HEAD."):
            drawn = torch.randn(parameter.shape, generator=generator)
$FILLING
with phase("forward"):
    filled = logits_of(model)
"""

FILLED_BY_FAN_IN: Final = """\
parameter.copy_(0.3 * drawn / math.prod(parameter.shape[1:]) ** 0.5)
"""

FILLED_BY_SCALE: Final = """\
if "$SCALES" in name:
    parameter.mul_(1 + 0.1 * drawn)
else:
    parameter.copy_(0.3 * drawn / math.prod(parameter.shape[1:]) ** 0.5)
"""

FILLED_LOSS: Final = """\
logits = 10 * filled.double() / of_base.abs().max()  # so large that four digits show a small move
print(f"filled_loss: {functional.cross_entropy(logits, torch.arange(4)):.4g}")
"""

MERGED_EQUALS_UNMERGED: Final = """\
with phase("merge"):
    merged = logits_of(copy.deepcopy(model)$FLOAT.merge_and_unload())
    difference = (merged - filled).abs().max()
print("merged_equals_unmerged:", bool(difference <= 3e-5 * filled.abs().max()))
"""
