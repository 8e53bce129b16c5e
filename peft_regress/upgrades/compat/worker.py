"""Load adapters on request: `python -m peft_regress.upgrades.compat.worker`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from peft_regress.upgrades.compat.messages import BaseMade, LoadAdapter, Loaded, MakeBase
from peft_regress.upgrades.messages import Import
from peft_regress.upgrades.worker import import_modules
from peft_regress.workers.serve import serve

if TYPE_CHECKING:
    from peft_regress.upgrades.compat.base_model import Base


def handlers() -> Mapping[type[msgspec.Struct], Callable[[Any], msgspec.Struct]]:
    """Return what answers each request; together they keep one base model."""
    loader = _Loader()
    return {Import: import_modules, MakeBase: loader.make_base, LoadAdapter: loader.load}


class _Loader:
    """The base model that adapters are loaded on; `make_base` imports torch."""

    def __init__(self) -> None:
        self._base: Base

    def make_base(self, request: MakeBase) -> BaseMade:
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.base_model import Base

        with single_thread():
            self._base = Base(request.base, folder=Path(request.folder))
        return self._base.made

    def load(self, request: LoadAdapter) -> Loaded:
        from peft_regress.measure.training import single_thread
        from peft_regress.upgrades.compat.loading import load_adapter

        with single_thread():
            return load_adapter(self._base, Path(request.folder), request.leave_out)


if __name__ == "__main__":
    serve(handlers())
