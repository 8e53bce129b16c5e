"""A worker's own side of `compat`: it makes a base model, and loads adapters on it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from peft_regress.upgrades.compat.messages import BaseMade, LoadAdapter, Loaded, MakeBase

if TYPE_CHECKING:
    from peft_regress.upgrades.compat.base_model import Base


class Loader:
    """Keeps the base model that adapters are loaded on; `make_base` imports torch."""

    def __init__(self) -> None:
        self._base: Base
        self._request: MakeBase | None = None

    def make_base(self, request: MakeBase) -> BaseMade:
        """Make the base model, unless the last one was the same."""
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.base_model import Base

        if request != self._request:
            with single_thread():
                self._base = Base(request.base, folder=Path(request.folder))
            self._request = request
        return self._base.made

    def load(self, request: LoadAdapter) -> Loaded:
        """Load a saved adapter on it."""
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.loading import load_adapter

        with single_thread():
            return load_adapter(self._base, Path(request.folder), request.leave_out)
