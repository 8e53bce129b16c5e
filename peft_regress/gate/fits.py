"""Which device classes a case fits into, and which it no longer fits. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

from peft_regress.devices import DeviceClass
from peft_regress.gate.verdicts import Reason
from peft_regress.metrics import METRICS
from peft_regress.runs.schema import Record


class Need(NamedTuple):
    """What a case needs of a device."""

    name: str
    """`memory` or `storage`."""
    value: float | None
    """Bytes; None if it was not measured."""

    def limit_of(self, device: DeviceClass) -> int | None:
        """Return how many bytes a device has of it; None if that is not limited."""
        return device.memory_bytes if self.name == "memory" else device.storage_bytes

    def fits(self, device: DeviceClass) -> bool | None:
        """Return whether a device has enough of it; None if it was not measured."""
        limit = self.limit_of(device)
        if limit is None:
            return True
        return None if self.value is None else self.value <= limit


def needs_of(record: Record) -> tuple[Need, ...]:
    """Return the memory of one update, and the storage of all weights with the adapter."""
    metrics = record.metrics
    weights = [metrics.get(name) for name in ("peak_param_bytes", "peak_buffer_bytes")]
    measured = [metric.value for metric in weights if metric is not None]
    peak = metrics.get("peak_bytes")
    return (
        Need("memory", None if peak is None else peak.value),
        Need("storage", sum(measured) if len(measured) == len(weights) else None),
    )


def fits(record: Record, device: DeviceClass) -> bool | None:
    """Return whether a case fits into a device; None if that is not known."""
    found = [need.fits(device) for need in needs_of(record)]
    if False in found:
        return False
    return None if None in found else True


def lost_fits(old: Record, new: Record, devices: Iterable[DeviceClass]) -> Iterator[Reason]:
    """Yield a reason for each device that a case fitted into and no longer does."""
    needs = list(zip(needs_of(old), needs_of(new), strict=True))
    for device in devices:
        if not all(before.fits(device) for before, _ in needs):
            continue
        for before, after in needs:
            if after.fits(device) is False and before.value is not None is not after.value:
                yield Reason(
                    metric=f"fits {device.name}",
                    old=before.value,
                    new=after.value,
                    relative_change=(
                        (after.value - before.value) / before.value if before.value else None
                    ),
                    verdict="regressed",
                    spec=METRICS["peak_bytes"],
                    limit=after.limit_of(device),
                )
