"""Swap other weights into an adapter."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from typing import Any, ClassVar, Final

import torch
from hypothesis import strategies as st

from peft_fuzz.acts.act import Act, Choices, Lines, folder_of
from peft_fuzz.networks.network import Size
from peft_fuzz.oracle import library
from peft_fuzz.oracle.checks import AbsentError, fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan
from peft_fuzz.oracle.state import check_output
from peft_regress.cases import Name

PADDED_KINDS: Final = frozenset({"conv2d", "linear"})
"""Layers that hot-swapping pads (utils/hotswap.py)."""
SEED: Final = 77


def can_swap() -> bool:
    """Return whether the installed peft can swap adapters: since 0.15."""
    return find_spec("peft.utils.hotswap") is not None


class HotSwap(Act, frozen=True, kw_only=True, tag="hot_swap"):
    """Swap other weights into an adapter, from a file: those it has once it is filled anew."""

    title: ClassVar = "swapping weights in"
    may_refuse: ClassVar = True

    adapter: Name
    target_rank: Size | None = None
    """Prepare the model for swaps up to this rank first."""

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        return super().drawn(choices) if can_swap() else []

    def is_legal(self, plan: Plan) -> bool:
        name, rank = self.adapter, self.target_rank
        if "hot_swap" not in plan.abilities or plan.active != (name,) or not plan.enabled:
            return False
        settings, targets = plan.settings[name], plan.targets(name)
        if settings.get("use_dora") or plan.copies(name):
            return False
        if len(plan.settings) > 1 and rank is not None:
            return False
        layers = [layer for layer in plan.on.network.layers if layer.name in targets]
        ranks = [settings.get("r", 8), *dict(settings.get("rank_pattern") or {}).values()]
        fits = rank is None or (
            rank >= max(ranks) and all(rank % layer.groups == 0 for layer in layers)
        )
        return fits and all(layer.kind in PADDED_KINDS for layer in layers)

    def refusal(self, plan: Plan) -> str | None:
        return f"adapter {self.adapter} is merged" if self.adapter in plan.merged else None

    def after(self, plan: Plan) -> Plan:
        return replace(plan, padded=plan.padded or self.target_rank is not None)

    def carry_out(self, life: Life) -> None:
        try:
            from peft.utils import hotswap
        except ImportError as error:
            raise AbsentError("the installed peft has no hot-swapping") from error

        name = self.adapter
        tensors = [tensor for _, _, tensor in life.held(name)]
        own = [tensor.detach().clone() for tensor in tensors]
        life.fill(tensors, SEED)
        new = life.parameters((name,))
        folder = library.saved_in(life.save([name]), name)
        with torch.no_grad():
            for tensor, value in zip(tensors, own, strict=True):
                tensor.copy_(value)
        if self.target_rank is not None:
            trains = {key for key, tensor in life.model.named_parameters() if tensor.requires_grad}
            hotswap.prepare_model_for_compiled_hotswap(life.model, target_rank=self.target_rank)
            for key, tensor in life.model.named_parameters():
                if tensor.requires_grad and key not in trains:
                    fail("frozen", f"{key} trains since the model is prepared for swaps.")
        hotswap.hotswap_adapter(life.model, str(folder), name, torch_device="cpu")
        life.optimizer = None
        life.forget(name)
        if new is not None:
            life.known[name,] = life.oracle.output(new)

    def attempt(self, life: Life) -> None:
        # Preparing for swaps comes before the swap that is refused.
        life.plan = replace(life.plan, padded=life.plan.padded or self.target_rank is not None)
        self.carry_out(life)

    def change(self, plan: Plan) -> Change:
        return Change(adapters=frozenset({self.adapter}))

    def check_accepted(self, life: Life, reason: str) -> None:
        check_output(life, self.change(life.plan))

    def lines(self, script: Lines) -> Iterator[str]:
        name = self.adapter
        yield f"torch.manual_seed({script.seed})"
        yield "folder = tempfile.mkdtemp()"
        yield "own = copy.deepcopy(model.state_dict())"
        yield f"fill(model, seed={SEED}, adapter={name!r})"
        yield "before = output(model, x)"
        yield f"model.save_pretrained(folder, selected_adapters=[{name!r}])"
        yield "model.load_state_dict(own)"
        if self.target_rank is not None:
            yield f"prepare_model_for_compiled_hotswap(model, target_rank={self.target_rank})"
        yield f"hotswap_adapter(model, {folder_of(name)}, {name!r}, torch_device='cpu')"
