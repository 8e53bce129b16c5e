"""Copy and convert the model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from typing import Any, ClassVar

import torch
from hypothesis import strategies as st

from peft_fuzz.acts.act import Act, Choices, Lines
from peft_fuzz.networks.build import DTYPES, lay_out
from peft_fuzz.networks.network import DType
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan


class Copy(Act, frozen=True, kw_only=True, tag="copy"):
    """Go on with a deep copy of the model."""

    title: ClassVar = "copying the model"

    def is_legal(self, plan: Plan) -> bool:
        return True

    def carry_out(self, life: Life) -> None:
        life.model = deepcopy(life.model)
        life.optimizer = None

    def lines(self, script: Lines) -> Iterator[str]:
        yield "model = copy.deepcopy(model)"


class Convert(Act, frozen=True, kw_only=True, tag="convert"):
    """Convert the model with `to(...)`."""

    title: ClassVar = "converting the model"

    dtype: DType | None = None
    channels_last: bool | None = None

    @classmethod
    def drawn(cls, choices: Choices) -> Sequence[st.SearchStrategy[Any]]:
        dtypes: tuple[DType, ...] = ("bfloat16", "float32", "float16")
        layouts = [cls(channels_last=last) for last in (True, False)]
        return [st.sampled_from([*(cls(dtype=dtype) for dtype in dtypes), *layouts])]

    def is_legal(self, plan: Plan) -> bool:
        # `to` knows channels last for weights of four dimensions alone.
        is_flat = "conv3d" not in plan.kinds.values()
        return (
            (self.dtype is not None or self.channels_last is not None)
            and not plan.merged
            and (self.channels_last is None or is_flat)
        )

    def carry_out(self, life: Life) -> None:
        life.known.clear()
        for module in (life.model, life.origin, life.reference):
            if self.dtype is not None:
                module.to(DTYPES[self.dtype])
            if self.channels_last is not None:
                lay_out(
                    module, torch.channels_last if self.channels_last else torch.contiguous_format
                )
        if self.dtype is not None and life.x.is_floating_point():
            life.x = life.x.to(DTYPES[self.dtype])
        life.renew_oracle()
        life.check_base()

    def change(self, plan: Plan) -> Change:
        return Change(is_another_model=True)

    def traits(self) -> Iterator[str]:
        if self.dtype is not None:
            yield "converted dtype"
        if self.dtype not in {None, "float32"}:
            yield "half precision"

    def lines(self, script: Lines) -> Iterator[str]:
        keywords = [] if self.dtype is None else [f"torch.{self.dtype}"]
        if self.channels_last is not None:
            layout = "channels_last" if self.channels_last else "contiguous_format"
            keywords.append(f"memory_format=torch.{layout}")
        yield f"model.to({', '.join(keywords)})"
        yield f"original.to({', '.join(keywords)})"
        if self.dtype is not None:
            yield f"x = x.to(torch.{self.dtype}) if x.is_floating_point() else x"
