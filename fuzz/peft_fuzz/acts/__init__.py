"""What is done with an adapted model: each act is one class, with all that is known of it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, TypeAlias, get_args

from peft_fuzz.acts.act import Act as AnyAct
from peft_fuzz.acts.act import Wrap
from peft_fuzz.acts.adapters import Add, Delete
from peft_fuzz.acts.hot_swap import HotSwap
from peft_fuzz.acts.merging import Merge, Unload, Unmerge
from peft_fuzz.acts.saving import LoadBeside, SaveLoad
from peft_fuzz.acts.switching import Activate, Convert, Copy, Disable, Enable, Mode
from peft_fuzz.acts.training import Fill, Train

__all__ = ["ACTS", "KINDS", "Act", "Activate", "Add", "AnyAct", "Convert", "Copy", "Delete"]
__all__ += ["Disable", "Enable", "Fill", "HotSwap", "LoadBeside", "Merge", "Mode", "SaveLoad"]
__all__ += ["Train", "Unload", "Unmerge", "Wrap"]

Act: TypeAlias = (
    Fill
    | Merge
    | Unmerge
    | Train
    | Disable
    | SaveLoad
    | Activate
    | Add
    | Enable
    | Mode
    | LoadBeside
    | Delete
    | Unload
    | Copy
    | Convert
    | HotSwap
)
"""An act of an example; the plainest first, to which drawn lives shrink."""
ACTS: Final[tuple[type[AnyAct], ...]] = get_args(Act)
_ALL: Final[tuple[type[AnyAct], ...]] = (*ACTS, Wrap)
KINDS: Final[Mapping[str, type[AnyAct]]] = {act.tag(): act for act in _ALL}
"""The acts by the names that stored examples and causes have for them."""
