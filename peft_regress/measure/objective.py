"""What a fine-tuning minimizes, what its model returns meanwhile, and how it is scored."""

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from peft_regress.cost.batches import floats_in, named_tensors
from peft_regress.errors import InputError
from peft_regress.imports import calling

Context: TypeAlias = Callable[[nn.Module], AbstractContextManager[Any]]
"""Makes the context that a model runs in."""

_PAIR: Final = 2
_ROUNDINGS: Final = 4
"""How far merging and unmerging may move a number, in roundings of the largest one."""


@dataclass(frozen=True, kw_only=True)
class Objective:
    """The loss and the score of a fine-tuning, its own or the default ones."""

    own_loss: Callable[[nn.Module, Any], Tensor] | None = None
    own_score: Callable[[nn.Module, Sequence[Any]], float] | None = None
    name: str = "the training"

    def loss(self, model: nn.Module, batch: Any) -> Tensor:
        """Return the scalar loss of a batch.

        Raises `InputError` if the default loss does not know such a batch, or for no scalar.
        """
        found: object
        if self.own_loss is not None:
            found = self.own_loss(model, batch)
        elif is_pair(batch):
            found = cross_entropy(logits_of(model(batch[0])), batch[1])
        elif isinstance(batch, Mapping):
            found = getattr(model(**batch), "loss", None)
        else:
            raise InputError(
                f"{self.name}: a batch is a {type(batch).__name__}, which the default loss does "
                "not know. Give loss="
            )
        if isinstance(found, Tensor) and not found.ndim and found.is_floating_point():
            return found
        shown = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found)
        raise InputError(f"{self.name}: the loss is no floating-point scalar, but a {shown}")

    def precise_loss(self, model: nn.Module, batch: Any) -> float:
        """Return the loss in eval mode, without rounding of its own where it is the default one."""
        with self._plainly(model), caught(model) as calls:
            loss = self.loss(model, batch)
        if self.own_loss is None and is_pair(batch):
            logits = logits_of(calls[-1]).float().double()
            return functional.cross_entropy(logits, batch[1]).item()
        return float(loss.item())

    def outputs(
        self, model: nn.Module, batch: Any, how: Context | None = None
    ) -> tuple[Tensor, ...]:
        """Return in float32 what the model returns while its loss runs.

        Of a tree the floating-point tensors. how: the context that it runs in; by default eval mode
        without gradients.
        """
        with (how or self._plainly)(model), caught(model) as calls:
            self.loss(model, batch)
        tensors = (tensor for call in calls for tensor in floats_in(call))
        return tuple(tensor.detach().float().clone() for tensor in tensors)

    def scores(self, model: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
        """Return `loss`, and `accuracy` or `score`, on test batches. The mode becomes eval.

        Raises `InputError` for a score that is no number.
        """
        model.eval()
        if self.own_score is not None:
            score = number(self.own_score, model, batches, name=f"{self.name}: the score")
            return {"score": score, "loss": self._mean_scores(model, batches)["loss"]}
        if self.own_loss is None and all(map(is_pair, batches)):
            with self._no_gradients():
                logits = torch.cat([logits_of(model(batch[0])) for batch in batches])
                labels = torch.cat([batch[1] for batch in batches])
                found = {"loss": cross_entropy(logits, labels).item()}
                if _are_classes(logits, labels):
                    right = (logits.argmax(dim=1) == labels).sum().item()
                    found["accuracy"] = right / len(labels)
            return found
        return self._mean_scores(model, batches)

    @contextlib.contextmanager
    def _plainly(self, model: nn.Module) -> Iterator[None]:
        with evaluated(model), self._no_gradients():
            yield

    def _no_gradients(self) -> AbstractContextManager[Any]:
        """Compute without gradients; a loss of one's own may train with what it kept meanwhile."""
        return torch.inference_mode() if self.own_loss is None else torch.no_grad()

    def _mean_scores(self, model: nn.Module, batches: Sequence[Any]) -> dict[str, float]:
        total, count = 0.0, 0
        right: list[Tensor] = []
        with self._no_gradients():
            for batch in batches:
                tensors = (tensor for _, tensor in named_tensors(batch) if tensor.ndim)
                size = next(map(len, tensors), 1)
                with caught(model) as calls:
                    total += size * self.loss(model, batch).item()
                count += size
                if is_pair(batch) and len(calls) == 1:
                    logits, labels = getattr(calls[0], "logits", calls[0]), batch[1]
                    if _are_classes(logits, labels):
                        right.append(logits.argmax(dim=1) == labels)
        found = {"loss": total / count}
        if len(right) == len(batches):
            found["accuracy"] = torch.cat(right).double().mean().item()
        return found


def _are_classes(logits: Any, labels: Any) -> bool:
    if not (isinstance(logits, Tensor) and isinstance(labels, Tensor)):
        return False
    is_each = logits.ndim == _PAIR and labels.shape == logits.shape[:1]
    return is_each and logits.shape[1] > 1 and not labels.is_floating_point()


def number(
    function: Callable[[nn.Module, Sequence[Any]], float],
    model: nn.Module,
    batches: Sequence[Any],
    *,
    name: str,
) -> float:
    """Call a function of the user's. Raises `InputError` for no finite number, or `CaseError`."""
    with torch.no_grad(), calling(name):
        value = float(function(model, batches))
    if not math.isfinite(value):
        raise InputError(f"{name} is {value}, not a finite number")
    return value


def is_pair(batch: object) -> bool:
    """Return whether a batch is inputs and labels."""
    return isinstance(batch, tuple | list) and len(batch) == _PAIR


def logits_of(output: Any) -> Tensor:
    """Return the logits in what a model returned: `output.logits`, or the tensor itself."""
    found = getattr(output, "logits", output)
    if not isinstance(found, Tensor):
        raise InputError(f"the model returns a {type(output).__name__}, not logits. Give loss=")
    return found


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the mean loss (nats, float32) of logits (batch, classes, ...), labels (batch, ...)."""
    return functional.cross_entropy(logits.float(), labels)


@contextlib.contextmanager
def evaluated(model: nn.Module) -> Iterator[None]:
    """Put a model in eval mode, and restore each module's mode.

    A module with a `train` of its own, such as those of loralib, may merge and unmerge weights by
    it. The rounding of that is undone; any other change stays, for `frozen_unchanged` to see.
    """
    modes = {module: module.training for module in model.modules()}
    own = (one for one in modes if one.training and type(one).train is not nn.Module.train)
    tensors = (tensor for module in own for tensor in module.parameters())
    before = {one: one.detach().clone() for one in tensors if one.is_floating_point()}
    model.eval()
    largest = [max(largest_of(was), largest_of(tensor)) for tensor, was in before.items()]
    try:
        yield
    finally:
        for module, mode in modes.items():  # a parent before its parts
            if module.training != mode:
                module.train(mode)
        for module, mode in modes.items():  # of a part that parents in two modes share
            module.training = mode
        for (tensor, was), size in zip(before.items(), largest, strict=True):
            rounding = _ROUNDINGS * torch.finfo(was.dtype).eps * size
            if tensor.shape == was.shape and largest_of(tensor - was) <= rounding:
                tensor.data.copy_(was)


def largest_of(tensor: Tensor) -> float:
    """Return the largest size of a number in a tensor; 0 for an empty one."""
    return float(tensor.detach().abs().max()) if tensor.numel() else 0.0


@contextlib.contextmanager
def caught(model: nn.Module) -> Iterator[list[Any]]:
    """Catch what a model returns each time that it is called."""
    outputs: list[Any] = []
    with model.register_forward_hook(lambda _module, _args, output: outputs.append(output)):
        yield outputs
