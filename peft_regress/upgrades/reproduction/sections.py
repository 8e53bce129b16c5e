"""The parts of a script that do not depend on the method, in their order in the script.

`fill_in` replaces the names in capitals after a dollar sign.
"""

from __future__ import annotations

from string import Template
from typing import Final


def fill_in(section: str, **values: str) -> str:
    """Return a section with its values; a line that has only an empty value is removed."""
    for name, value in values.items():
        if not value:
            section = section.replace(f"${name}\n", "")
    return Template(section).substitute({name: v.rstrip("\n") for name, v in values.items()})


def source(value: object) -> str:
    """Return a literal with double quotes, as formatters write it."""
    literal = repr(value)
    # With one of them in a text, the quotes around it may differ: then Python's own are right.
    return literal if '"' in literal else literal.replace("'", '"')


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
        message = (str(error).strip().splitlines() or [""])[0]
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

CALL: Final = "model(images)"
CALL_IN_EVAL_MODE: Final = "model.eval()(images)"
CALL_IN_FLOAT32: Final = "copy.deepcopy(model).float()(images.float())"

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


operators = Operators()  # of forward, loss and backward
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
print("aten_ops:", operators.count)
"""

OPTIMIZER_STATE_BYTES: Final = """\
held = {}
for state in optimizer.state.values():
    for value in $HELD:
        if isinstance(value, torch.Tensor):
            held[value.untyped_storage().data_ptr()] = value.untyped_storage().nbytes()
print("optimizer_state_bytes:", sum(held.values()))
"""

HELD: Final = "state.values()"
HELD_AND_PROJECTION: Final = (
    '(*state.values(), getattr(state.get("projector"), "ortho_matrix", None))'
)


# --- What it computes -----------------------------------------------------------------------------

# Cross-entropy of logits that are so large that four digits show a small move.
FILLED_LOSS: Final = """\
with phase("forward"):
    logits = 10 * logits_of(model).double() / of_base.abs().max()
print(f"filled_loss: {functional.cross_entropy(logits, torch.arange(4)):.4g}")
"""

LOSS_AFTER_STEP: Final = """\
with phase("forward"):
    logits = logits_of(model).double()
print(f"loss_after_step: {functional.cross_entropy(logits, torch.arange(4)):.3g}")
"""

MERGED_EQUALS_UNMERGED: Final = """\
with phase("merge"):
    merged = copy.deepcopy(model)$FLOAT.merge_and_unload()
    unmerged = logits_of(model)
    difference = (logits_of(merged) - unmerged).abs().max()
print("merged_equals_unmerged:", bool(difference <= 3e-5 * unmerged.abs().max()))
"""
