"""The training step of a method on a network by name, such as `lora-r4/resnet18:8x3x96x96`.

What a step needs is imported with it, so that a process takes no more memory than its step.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from peft_regress.cases import Adaptation, split_adapter_name

if TYPE_CHECKING:
    from peft_regress.cost.step_cost import StepLog

_CLASSES: Final = 10


def recorded(case: str) -> "StepLog":
    """Record the step of a case, at a batch that tells what any other takes."""
    from peft_regress import registry
    from peft_regress.choosing.candidates import of_architecture
    from peft_regress.cost.profile import record_training_step
    from peft_regress.cost.step_cost import MANY

    names = adaptation(case)
    subject = of_architecture(names.architecture, batch=MANY, resolution=shape_of(case)[-1])
    step = subject.step(registry.get("method", names.method).at(names.rank))
    return record_training_step(
        step.model, step.make_optimizer, batch=subject.items(MANY), loss=subject.loss
    )


def adaptation(case: str) -> Adaptation:
    """Return the method on its network."""
    adapter, _, network = case.partition(":")[0].partition("/")
    method, rank = split_adapter_name(adapter)
    return Adaptation(method=method, architecture=network, rank=rank)


def shape_of(case: str) -> tuple[int, ...]:
    """Return the shape of the images."""
    return tuple(int(size) for size in case.partition(":")[2].split("x"))


def real_step(case: str) -> Callable[[], None]:
    """Make all that the step of a case needs, and return the step."""
    import torch

    from peft_regress import registry

    names, shape = adaptation(case), shape_of(case)
    network: Any = registry.get("architecture", names.architecture)
    method: Any = registry.get("method", names.method).at(names.rank, heads=(network.head,))
    model = method.adapt(network.build(num_classes=_CLASSES, seed=0), seed=0)
    method.set_mode(model)
    optimizer = method.make_optimizer(model)
    images, labels = torch.randn(shape), torch.zeros(shape[0], dtype=torch.int64)

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        torch.nn.functional.cross_entropy(model(images), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step
