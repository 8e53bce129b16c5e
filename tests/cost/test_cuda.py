"""The ledger on CUDA tensors, against what torch's caching allocator was asked for, to the byte.

`requested_bytes` has no rounding to 512 bytes, which `max_memory_allocated` has. It is read between
operators: what cuDNN and cuBLAS take for themselves while an operator runs, workspaces in the main,
is given back by then. The one workspace that cuBLAS keeps from its first product on is taken off.
"""

import dataclasses
import gc

import pytest
import torch
from network_zoo import CLASSES, NETWORKS, adamw, adapted, fake_cost, real_step, step
from torch.utils._python_dispatch import TorchDispatchMode

from peft_regress.gc_pause import paused_gc

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no CUDA device"),
]

FLOAT = 4
CONVOLUTIONAL = [
    ("resnet18", "full"),
    ("resnet18", "head"),
    ("resnet18", "lora"),
    ("mobilenet_v3_small", "full"),
    ("shufflenet_v2_x0_5", "lora"),
    ("squeezenet1_1", "full"),
]
ATTENDING = [("vit_b_16", "lora"), ("swin_t", "lora")]


class BetweenOperators(TorchDispatchMode):
    """Watch how many bytes are requested from the allocator whenever an operator has returned."""

    def __init__(self):
        super().__init__()
        self.high_bytes = requested_bytes()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.high_bytes = max(self.high_bytes, requested_bytes())
        return out


def requested_bytes():
    return int(torch.cuda.memory_stats()["requested_bytes.all.current"])


def on_cuda(name, method):
    """BatchNorm in eval mode, as it is fine-tuned; in train mode cuDNN's keeps a reserve."""
    return adapted(name, method).eval().cuda()


def cuda_cost(name, method, *, fake):
    return step(
        on_cuda(name, method), NETWORKS[name].shape, classes=CLASSES, optimizer=adamw, fake=fake
    )


def flops(cost):
    return {
        field.name: getattr(cost, field.name)
        for field in dataclasses.fields(cost)
        if field.name.endswith("_flops")
    }


@pytest.mark.parametrize(("name", "method"), [*CONVOLUTIONAL, *ATTENDING])
def test_the_peak_is_what_the_allocator_is_asked_for(name, method):
    cost = cuda_cost(name, method, fake=False)
    gc.collect()
    step = real_step(on_cuda(name, method), NETWORKS[name].shape)
    step.run()
    parameters, optimizer = list(step.model.parameters()), step.optimizer
    tensors = [
        *parameters,
        *(p.grad for p in parameters if p.grad is not None),
        *step.model.buffers(),
        *(t for state in optimizer.state.values() for t in state.values()),
        step.images,
        step.labels,
    ]
    storages = {t.untyped_storage().data_ptr(): t.untyped_storage() for t in tensors if t.is_cuda}
    kept = requested_bytes() - sum(storage.nbytes() for storage in storages.values())
    assert kept >= 0
    torch.cuda.reset_peak_memory_stats()
    with paused_gc(), BetweenOperators() as watched:
        step.run()
    # AdamW's step counters stay on the CPU, and the ledger counts all devices.
    counters = FLOAT * sum(parameter.requires_grad for parameter in parameters)
    assert watched.high_bytes - kept == cost.peak_bytes - counters
    assert cost.peak_bytes - counters <= torch.cuda.max_memory_allocated()


@pytest.mark.parametrize(("name", "method"), CONVOLUTIONAL)
def test_fake_equals_real_on_cuda(name, method):
    """But for operators that only move data, where a fake kernel's result lies otherwise."""
    fake, real = (cuda_cost(name, method, fake=fake) for fake in (True, False))
    assert dataclasses.replace(fake, aten_ops=real.aten_ops) == real


@pytest.mark.parametrize(("name", "method"), [*CONVOLUTIONAL, *ATTENDING])
def test_flops_are_those_of_the_cpu(name, method):
    """Attention runs by other kernels, which keep other tensors, but take the same products."""
    on_cpu = flops(fake_cost(name, method))
    found = flops(cuda_cost(name, method, fake=False))
    # torch's own counter knows CUDA's attention and not the CPU's; BatchNorm has no products.
    for paper in ("paper_forward_flops", "paper_backward_flops"):
        if name == "vit_b_16":
            assert found.pop(paper) > on_cpu.pop(paper)
    assert found == on_cpu


def test_a_profile_leaves_cuda_s_random_state_and_memory_alone():
    model = on_cuda("squeezenet1_1", "full")
    state, before = torch.cuda.get_rng_state(), requested_bytes()
    for fake in (True, False):
        step(model, (2, 3, 32, 32), classes=CLASSES, optimizer=adamw, fake=fake)
    assert torch.equal(torch.cuda.get_rng_state(), state)
    # But for the workspace that cuBLAS makes at its first product, if this is it.
    after = requested_bytes()
    step(model, (2, 3, 32, 32), classes=CLASSES, optimizer=adamw, fake=False)
    assert requested_bytes() == after >= before
