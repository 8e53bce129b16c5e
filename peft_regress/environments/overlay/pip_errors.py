"""Read what pip says of a failure: what is wrong, in a line, and what to do about it."""

from __future__ import annotations

import re
from typing import Final

from peft_regress.text import clean

__all__ = ["problem_in", "remedy_for"]

_LONGEST: Final = 200
# They say less than the other errors do.
_EMPTY_PHRASES: Final = ("ResolutionImpossible", "No matching distribution found", "Exception:")
_OF_GIT: Final = re.compile(r"^(fatal|error): (?!subprocess-exited)")
_OF_BUILD: Final = re.compile(r"^[\w.]*(Error|Exception)\b|^error: ", re.IGNORECASE)
_UNREACHABLE: Final = (
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known|Max retries exceeded"
    r"|Temporary failure in name resolution|connection broken|Connection refused"
    r"|Could not resolve host"
)
_NAME_OR_INDEX: Final = (
    "`python -m pip index versions NAME` lists the releases for this Python; is PIP_INDEX_URL the "
    "right index?"
)
_REMEDIES: Final = (
    (r"No module named pip\b", "Install pip here: `python -m ensurepip`"),
    (_UNREACHABLE, "The index cannot be reached: check the network, PIP_INDEX_URL and proxies"),
    (r"No space left on device", "Free some space, or set PEFT_REGRESS_CACHE to another folder"),
    (
        r"requires? a different python",
        "Take a release for this Python, or run in an environment of another Python",
    ),
    (
        r"\bgit (clone|fetch|checkout|rev-parse)\b",
        "Is it the right address and revision? See `git ls-remote URL`",
    ),
    (
        r"subprocess-exited-with-error",
        "Take a release that has a wheel, or install what its build needs",
    ),
    (
        r"Wheel '.*' located at .* is invalid|do not match the hashes",
        "Take another release, or empty pip's cache: `python -m pip cache purge`",
    ),
    (r"Could not find a version|No matching distribution found", _NAME_OR_INDEX),
    (r"conflicting dependencies", "Name a release of the other package, too, that goes with it"),
)


def problem_in(said: str) -> str:
    """Return what pip says is wrong: its own errors, and those of a program in it."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    errors = [line.partition("ERROR: ")[2] for line in lines if "ERROR: " in line]
    plain = [line for line in errors if line and not line.startswith(_EMPTY_PHRASES)]
    # What was ignored explains the error that comes after it.
    plain.sort(key=lambda line: line.startswith("Ignored the following"))
    last = [line.removeprefix("ERROR: ") for line in lines[-1:]]
    chosen = [*(plain or last), *_causes(lines)]
    shown = "; ".join(clean(one, longest=_LONGEST).rstrip(".") for one in dict.fromkeys(chosen))
    return shown or "pip failed and said nothing"


def _causes(lines: list[str]) -> list[str]:
    """Return why a build failed, or what conflicts with what."""
    of_git = [line for line in lines if _OF_GIT.search(line)]
    if of_git and any("git " in line for line in lines):
        # git names the cause first, a traceback last.
        return of_git[:1]
    if "[end of output]" in lines:
        output = lines[: lines.index("[end of output]")]
        start = next((i for i, line in enumerate(output) if "lines of output]" in line), -1)
        output = output[start + 1 :]
        return ([line for line in output if _OF_BUILD.search(line)] or output)[-1:]
    if "The conflict is caused by:" in lines:
        rest = lines[lines.index("The conflict is caused by:") + 1 :]
        return [line for line in rest[:8] if " depends on " in line or " requested " in line]
    return []


def remedy_for(said: str) -> str:
    """Return what to do about a failure, or nothing where that is not known."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, said, re.IGNORECASE):
            return remedy
    return ""
