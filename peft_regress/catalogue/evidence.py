"""What is known of the accuracy of methods on the built-in tasks. No torch at import.

`tools/studies/task_study.py` writes `evidence.json`; docs/evidence.md says what it can tell apart.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Final

import msgspec

EVIDENCE_FILE: Final = Path(__file__).with_name("evidence.json")


class Evidence(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Accuracies on test images, from 0 to 1, after brief trainings on 32 x 32 images.

    A seed draws the same batches and the same new head for every method, so differences between
    methods are paired by seed.
    """

    steps: int
    batch: int
    seeds: int
    packages: dict[str, str]
    """The releases that trained."""
    scores: dict[str, dict[str, dict[str, tuple[float, ...]]]]
    """By task, architecture and method with its rank, such as `lora-r4`; one for each seed.

    Tasks are those of the catalogue, `shift-1` to `shift-5` by severity, and `animals`.
    """
    zero_shot: dict[str, dict[str, float]]
    """Of the source model as it is, by task and architecture, where it knows the classes."""


@functools.cache
def read_evidence() -> Evidence:
    """Read the file that comes with the package."""
    return msgspec.json.decode(EVIDENCE_FILE.read_bytes(), type=Evidence)
