"""What is asked of a worker that loads adapters, and its answers. No torch."""

from __future__ import annotations

import msgspec


class BaseModel(msgspec.Struct, frozen=True, kw_only=True):
    """The model that an adapter is loaded on, and its inputs: names alone, which travel."""

    name: str
    """`pkg.mod:callable`, or an architecture of the catalogue."""
    inputs: str | None = None
    """`pkg.mod:callable`, which returns a batch; None for a drawn one."""
    shape: list[int] | None = None
    """Of the drawn batch; None for what the model or the catalogue says."""
    folder: str
    """Import paths are looked up there."""

    @property
    def is_own(self) -> bool:
        """Whether the name is an import path."""
        return ":" in self.name


class BaseMade(msgspec.Struct, frozen=True, kw_only=True):
    """The base model was made, and computes."""

    weights: str
    """A digest of its parameters and buffers."""
    inputs: str
    """A digest of the batch."""
    outputs: list[list[float]]
    """What it computes without an adapter: a row for each tensor, see `numbers_of`."""


class LoadAdapter(msgspec.Struct, frozen=True, kw_only=True):
    """Load a saved adapter on a base model."""

    base: BaseModel
    adapter: str
    """Its folder."""


class Loaded(msgspec.Struct, frozen=True, kw_only=True):
    """What became of the adapter."""

    refusal: str = ""
    """Why it does not load or compute; the other values are then those known so far."""
    unknown_fields: list[str] = []
    """Fields of the file that the library's configuration does not have."""
    default_fields: list[str] = []
    """Fields of the file that have the library's default value."""
    changed_fields: dict[str, tuple[str, str]] = {}
    """(value in the file, value after loading) of each field that differs."""
    missing_keys: list[str] = []
    """Tensors of the adapter that the file does not have."""
    unexpected_keys: list[str] = []
    """Tensors of the file that are in no parameter or buffer."""
    foreign_keys: list[str] = []
    """Tensors of the file that this release would not save of the same adapter.

    Before 0.21 VeRA saves its projections and draws them again: unexpected, and not foreign.
    """
    altered_keys: list[str] = []
    """Tensors whose numbers differ after loading."""
    trainable: list[str] = []
    """The parameters that train if the adapter is loaded to train on, without `.weight`: a release
    may keep a tensor as `lora_magnitude_vector.default` or with that."""
    trainable_for_inference: list[str] = []
    """The parameters that train although it is loaded for inference."""
    outputs: list[list[float]] | None = None
    """With the adapter on, in float32."""
    is_finite: bool = True
    is_steady: bool = True
    """Whether it computes the same when it runs again, with other seeds."""
    merged: list[list[float]] | None = None
    """With the adapter merged; empty if a number is NaN or infinite."""
    merge_problem: str = ""
    """Why it does not merge."""
    training_problem: str = ""
    """Why it does not load to train on."""
    without: Loaded | None = None
    """What becomes of a refused one without its unknown fields, which peft refuses before 0.14."""
