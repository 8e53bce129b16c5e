"""Make one adapter of every variant with the peft of the running interpreter.

    python tools/fuzz/compat_make.py FOLDER

Each goes into a folder of its own; made.json says of each variant what failed, or is empty.
"""

from __future__ import annotations

import json
import re
import sys
import warnings
from pathlib import Path
from typing import Any

import peft
import torch
from compat_base import make
from compat_methods import VARIANTS

SPREAD = 0.1
"""What is added to each number: an untrained adapter mostly changes nothing."""


def configurations(kind: str, settings: list[dict[str, Any]]) -> Any:
    """Return the configuration by the first settings that this release takes."""
    for one in settings[:-1]:
        try:
            return getattr(peft, kind)(**one)
        except TypeError:
            continue
    return getattr(peft, kind)(**settings[-1])


def save(name: str, folder: Path) -> str:
    """Make and save one adapter; return why that failed."""
    kind, settings = VARIANTS[name]
    if not hasattr(peft, kind):
        return "absent"
    try:
        configuration = configurations(kind, settings)
        torch.manual_seed(3)
        model = peft.get_peft_model(make(), configuration)
        torch.manual_seed(4)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(SPREAD * torch.randn_like(parameter))
        model.save_pretrained(str(folder))
    except Exception as error:  # noqa: BLE001  (a release may refuse a variant by any exception)
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def folder_of(name: str) -> str:
    """Return the name of a variant's folder."""
    return re.sub(r"[^\w.=]+", "-", name)


def main(folder: Path) -> None:
    """Make them all."""
    warnings.simplefilter("ignore")
    folder.mkdir(parents=True, exist_ok=True)
    made = {name: save(name, folder / folder_of(name)) for name in VARIANTS}
    (folder / "made.json").write_text(json.dumps(made, indent=1) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
