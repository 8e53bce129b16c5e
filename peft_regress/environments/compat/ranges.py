"""Read a range of releases as a user types it, such as `0.10.0..0.21.2` or `0.14..,0.12.0`."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from packaging.version import InvalidVersion, Version

from peft_regress.errors import AbsentError, InputError

_DOTS = ".."


def chosen_releases(
    text: str, known: Sequence[Version], *, package: str, last_patches: bool = False
) -> tuple[Version, ...]:
    """Return the releases of a range, oldest first.

    text: parts separated by commas, each a release or `OLDEST..NEWEST`, of which one end may be
    left out. known: what the index offers, oldest first. last_patches: of each minor release only
    the last of its patches in the range. Raises `InputError` for a part of another form,
    `AbsentError` if no release is in a part.
    """
    chosen: set[Version] = set()
    for part in text.split(","):
        chosen |= _of_part(part.strip(), known, package=package)
    found = sorted(chosen)
    return tuple(_last_patches(found) if last_patches else found)


def _of_part(part: str, known: Sequence[Version], *, package: str) -> set[Version]:
    oldest, dots, newest = part.partition(_DOTS)
    if not dots:
        release = _version(part)
        # It may be a pre-release, or yanked: pip knows.
        return {release}
    ends = [_version(end) if end else None for end in (oldest.strip(), newest.strip())]
    low, high = ends
    if low is not None and high is not None and low > high:
        raise InputError(f"{part!r} has no release in it: the older one comes first, {high}..{low}")
    found = {one for one in known if (low is None or low <= one) and (high is None or one <= high)}
    if not found:
        raise AbsentError(
            f"the index has no release of {package} in {part!r} for this Python; its releases are "
            f"{known[0]} to {known[-1]}"
        )
    return found


def _last_patches(releases: Iterable[Version]) -> list[Version]:
    return list({one.release[:2]: one for one in releases}.values())


def _version(text: str) -> Version:
    try:
        return Version(text)
    except InvalidVersion:
        raise InputError(
            f"--releases: {text!r} is not a release: write 0.14.0, a range such as 0.10.0..0.21.2 "
            "or 0.14.., or several with commas"
        ) from None
