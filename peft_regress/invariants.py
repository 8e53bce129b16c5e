"""Facts that must hold whatever a library's version: costs alone miss silent changes of function.

Each is true, false, or None where it does not apply. Checked on one seed, since they are exact.
"""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Final, TypeVar

import safetensors.torch
import torch

from peft_regress.collector import quiet_collector
from peft_regress.finetune import single_thread

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from torch import Tensor, nn

    from peft_regress.methods.protocol import BaseDtype, Method

__all__ = ["IDENTITY_TOLERANCE", "MERGE_TOLERANCE", "RELOAD_TOLERANCE", "InvariantWatch"]

# Bounds on the largest difference of two outputs over the largest logit. Identity and merging are
# judged in float32 whatever the base: in bfloat16 a sound merge is off by up to 0.15, since a small
# update is lost in the rounded weight. Found sound, on the four default architectures after 22
# steps: 0 for reloading; for identity 0 too, but where the weight is computed anew, up to 1.8e-6
# (HRA); for merging, which rounds sums otherwise, up to 5.1e-6. The margin is for other processors;
# a merge that scales one layer wrongly is off by 1e-4 and more. On a bfloat16 base the start itself
# is rounded: the residual weight of PiSSA and OLoRA (2e-4), and DoRA's magnitude (1e-2).
IDENTITY_TOLERANCE: Final[dict[BaseDtype, float]] = {"float32": 1e-5, "bfloat16": 3e-2}
MERGE_TOLERANCE: Final = 3e-5
RELOAD_TOLERANCE: Final = 1e-6

T = TypeVar("T")

_STATISTICS: Final = (".running_mean", ".running_var", ".num_batches_tracked")


class InvariantWatch:
    """Watch one fine-tuning run: made from the base, told of the adapted model, then asked.

    The watch keeps copies of the base model and of what must not move, for the run's length.

    - `identity_at_init`: adapted but untrained, the model computes what the base does.
    - `expected_trainable`: what trains, by name and shape, is what the method's own rule derives
      from the base model; after wrapping and after training.
    - `frozen_unchanged`: all else, buffers included, is bit-identical after training; running
      statistics are excepted where the method re-estimates them.
    - `trainable_changed`: every tensor that must train moved, but for those that a method prunes.
    - `merge_equals_unmerged`: folding the adapter in leaves the trained output as it is.
    - `saved_adapter_reloads`: the shipped tensors, written and read, give a freshly adapted model
      of another seed the trained output.
    """

    def __init__(  # noqa: PLR0913  (what a case consists of)
        self,
        *,
        method: Method,
        rank: int | None,
        head: str,
        base: nn.Module,
        probe: Tensor,
        seed: int,
    ) -> None:
        """Copy the prepared base model before it is adapted.

        probe: (count, 3, height, width), a few real images.
        """
        self._method = method
        self._rank = rank
        self._head = head
        self._base = copy.deepcopy(base)
        self._probe = probe
        self._seed = seed
        self._expected = dict(method.expected_trainable(base, head=head, rank=rank))
        self._before: dict[str, Tensor] = {}
        self._found: dict[str, bool | None] = {}

    @quiet_collector()
    def before_training(self, adapted: nn.Module) -> None:
        """Check the model as adapted, and keep what it holds."""
        self._found["identity_at_init"] = _agree(
            _output(*_in_float32(adapted, self._probe)),
            _output(*_in_float32(self._base, self._probe)),
            tolerance=IDENTITY_TOLERANCE[self._method.base_dtype],
        )
        self._found["expected_trainable"] = self._trainable_as_expected(adapted)
        self._before = {
            name: tensor.detach().clone() for name, tensor in _named_tensors(adapted).items()
        }

    @quiet_collector()
    def after_training(self, adapted: nn.Module) -> dict[str, bool | None]:
        """Check the trained model and return every invariant."""
        after = _named_tensors(adapted)
        trained_output = _output(adapted, self._probe)
        merges, merged = _attempt(lambda: self._merged_outputs(adapted))
        reloads, reloaded = _attempt(lambda: self._reloaded_output(adapted))
        return {
            "identity_at_init": self._found["identity_at_init"],
            "expected_trainable": bool(self._found["expected_trainable"])
            and self._trainable_as_expected(adapted),
            "frozen_unchanged": self._frozen_unchanged(after),
            "trainable_changed": self._trainable_changed(after),
            "merge_equals_unmerged": None
            if merges and merged is None
            else merged is not None and _agree(*merged, tolerance=MERGE_TOLERANCE),
            "saved_adapter_reloads": reloads
            and reloaded is not None
            and _agree(reloaded, trained_output, tolerance=RELOAD_TOLERANCE),
        }

    def _trainable_as_expected(self, model: nn.Module) -> bool:
        return self._expected == {
            name: tuple(parameter.shape)
            for name, parameter in model.named_parameters()
            if parameter.requires_grad
        }

    def _frozen_unchanged(self, after: Mapping[str, Tensor]) -> bool:
        may_move = _STATISTICS if self._method.trains_batch_norm_statistics else ()
        return self._before.keys() == after.keys() and all(
            torch.equal(tensor, after[name])
            for name, tensor in self._before.items()
            if name not in self._expected and not name.endswith(may_move)
        )

    def _trainable_changed(self, after: Mapping[str, Tensor]) -> bool:
        return all(
            name in after
            and name in self._before
            and not torch.equal(self._before[name], after[name])
            for name in self._expected
            if not any(part in name for part in self._method.prunes)
        )

    def _merged_outputs(self, adapted: nn.Module) -> tuple[Tensor, Tensor] | None:
        """Return the logits merged and unmerged, in float32; None where there is no adapter."""
        model, probe = _in_float32(adapted, self._probe)
        merged = self._method.merge(model)
        if merged is None:
            return None
        if model is not adapted and (own := self._method.merge(adapted)) is not None:
            # In its own type, where rounding hides what it computes, it must still compute.
            _output(own, self._probe)
        return _output(merged, probe), _output(model, probe)

    def _reloaded_output(self, adapted: nn.Module) -> Tensor:
        # Through the bytes that would be shipped, into a model whose own draws are others.
        shipped = {
            name: tensor.contiguous()
            for name, tensor in self._method.shipped_tensors(adapted).items()
        }
        content = safetensors.torch.save(shipped)
        fresh = self._method.adapt(
            copy.deepcopy(self._base), head=self._head, rank=self._rank, seed=self._seed + 1
        )
        self._method.load_shipped(fresh, safetensors.torch.load(content))
        return _output(fresh, self._probe)


def _attempt(action: Callable[[], T]) -> tuple[bool, T | None]:
    """Return (it worked, what it returned): a library that cannot do it has not kept the fact."""
    try:
        return True, action()
    except Exception:  # noqa: BLE001  (whatever a library raises, the fact does not hold)
        return False, None


def _named_tensors(model: nn.Module) -> dict[str, Tensor]:
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


def _in_float32(model: nn.Module, probe: Tensor) -> tuple[nn.Module, Tensor]:
    """Return the model and its input in float32, copied where they are not."""
    if probe.dtype == torch.float32:
        return model, probe
    return copy.deepcopy(model).float(), probe.float()


@single_thread()
def _output(model: nn.Module, probe: Tensor) -> Tensor:
    """Return the logits (count, classes) in eval mode; each module's mode is put back."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with torch.inference_mode():
            return model(probe).float().clone()  # type: ignore[no-any-return]
    finally:
        for module, mode in modes.items():
            module.training = mode


def _agree(one: Tensor, other: Tensor, *, tolerance: float) -> bool:
    """Compare logits relative to their size: untrained nets have logits near 0.003."""
    if one.shape != other.shape or not bool(torch.isfinite(one).all()):
        return False
    return bool((one - other).abs().max() <= tolerance * other.abs().max())
