"""Summarize the output of a failed pip: the problem in one line, and a remedy."""

from __future__ import annotations

import re
from typing import Final

from peft_regress.overlay.pip_command import NO_PIP_REMEDY
from peft_regress.text import clean

_LONGEST: Final = 200
# Other errors explain more.
_EMPTY_PHRASES: Final = ("ResolutionImpossible", "No matching distribution found", "Exception:")
_OF_GIT: Final = re.compile(r"^(fatal|error): (?!subprocess-exited)")
_OF_BUILD: Final = re.compile(r"^[\w.]*(Error|Exception)\b|^error: ", re.IGNORECASE)
_UNREACHABLE: Final = (
    r"NewConnectionError|ConnectTimeout|ReadTimeout|Name or service not known|Max retries exceeded"
    r"|Temporary failure in name resolution|connection broken|Connection refused"
    r"|Could not resolve host|network was disabled"
)
_NAME_OR_INDEX: Final = (
    "`python -m pip index versions NAME` lists the releases for this Python; is PIP_INDEX_URL the "
    "right index?"
)
_REMEDIES: Final = (
    (r"No module named pip\b", NO_PIP_REMEDY),
    (_UNREACHABLE, "The index cannot be reached: check the network, PIP_INDEX_URL and proxies"),
    (r"No space left on device", "Free some space, or set PEFT_REGRESS_CACHE to another folder"),
    (
        r"requires? a different python",
        "Choose a release for this Python, or run in an environment of another Python",
    ),
    (
        r"\bgit (clone|fetch|checkout|rev-parse)\b",
        "Are address and revision right? See `git ls-remote URL`",
    ),
    (
        r"subprocess-exited-with-error",
        "Choose a release that has a wheel, or install what its build needs",
    ),
    (
        r"Wheel '.*' located at .* is invalid|do not match the hashes",
        "Choose another release, or empty pip's cache: `python -m pip cache purge`",
    ),
    (r"Could not find a version|No matching distribution found", _NAME_OR_INDEX),
    (r"conflicting dependencies", "Name a release of the other package too, one that fits"),
)


def problem_in(output: str) -> str:
    """Return the problem in pip's output: its own errors, and those of a program that it ran."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line.partition("ERROR: ")[2] for line in lines if "ERROR: " in line]
    plain = [line for line in errors if line and not line.startswith(_EMPTY_PHRASES)]
    # Ignored releases explain the error before them.
    plain.sort(key=lambda line: line.startswith("Ignored the following"))
    last = [line.removeprefix("ERROR: ") for line in lines[-1:]]
    chosen = [*(plain or _of_uv(lines) or last), *_causes(lines)]
    shown = "; ".join(clean(one, longest=_LONGEST).rstrip(".") for one in dict.fromkeys(chosen))
    return shown or "pip failed without a message"


def _of_uv(lines: list[str]) -> list[str]:
    """Return what uv says, which is to bring pip, and its first cause."""
    said = [line for line in lines if line.startswith(("error: ", "cause: "))][:2]
    if not said or not lines[0].startswith("error: "):
        return []
    return [f"uv could not bring pip ({'; '.join(line.partition(': ')[2] for line in said)})"]


def _causes(lines: list[str]) -> list[str]:
    """Return why a build failed, or which packages conflict."""
    of_git = [line for line in lines if _OF_GIT.search(line)]
    if of_git and any("git " in line for line in lines):
        # git prints the cause first, a traceback comes last.
        return of_git[:1]
    if "[end of output]" in lines:
        printed = lines[: lines.index("[end of output]")]
        start = next((i for i, line in enumerate(printed) if "lines of output]" in line), -1)
        printed = printed[start + 1 :]
        return ([line for line in printed if _OF_BUILD.search(line)] or printed)[-1:]
    if "The conflict is caused by:" in lines:
        rest = lines[lines.index("The conflict is caused by:") + 1 :]
        return [line for line in rest[:8] if " depends on " in line or " requested " in line]
    return []


def remedy_for(output: str) -> str:
    """Return what to do about a failure; empty if that is not known."""
    for pattern, remedy in _REMEDIES:
        if re.search(pattern, output, re.IGNORECASE):
            return remedy
    return ""
