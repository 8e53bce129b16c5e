"""Put the page together: template, style, scripts and data, in one file that loads nothing else."""

import base64
import hashlib
import html
import json
import zlib
from collections.abc import Iterator
from importlib import resources
from string import Template
from typing import Any, Final

_GZIP: Final = 16 + zlib.MAX_WBITS
LIBRARIES: tuple[str, ...] = ("d3.min.js", "plot.umd.min.js")
"""The vendored libraries, in the order of loading."""

STYLES: tuple[str, ...] = ("colours.css", "frame.css", "content.css", "verdict.css", "media.css")
"""The style sheets, in the order of joining."""

SCRIPTS: tuple[str, ...] = (
    "model.js", "format.js", "dom.js", "controls.js", "palette.js", "figure.js", "glance.js",
    "amounts.js", "history_plot.js", "memory_plot.js", "tradeoffs_plot.js", "view_tradeoffs.js",
    "view_changes.js", "view_history.js", "view_memory.js", "view_ranks.js", "view_table.js",
    "view_case.js", "view_fit.js", "view_overview.js", "theme.js", "router.js",
)  # fmt: skip
"""The page's own scripts, in the order of joining: each uses only those before it."""


def render_page(parts: dict[str, Any]) -> str:
    """Return the page that shows `parts`, as one HTML file; docs/usage.md describes it.

    `parts` are JSON values with any strings, and iterators of them. Raises `ValueError` on NaN.
    """
    scripts = [_asset("vendor", name) for name in LIBRARIES]
    # The data must be unpacked before anything else, which the browser does asynchronously.
    own = "\n".join(_asset("assets", name) for name in SCRIPTS)
    scripts.append(f'(async () => {{\n"use strict";\n{own}\n}})();')
    return Template(_asset("assets", "page.html")).substitute(
        policy=html.escape(_content_security_policy(scripts)),
        style="\n".join(_asset("assets", name) for name in STYLES),
        data=packed(parts),
        scripts="\n".join(f"<script>{script}</script>" for script in scripts),
    )


def packed(value: Any) -> str:
    """Return a value as JSON, compressed, in letters that mean nothing in HTML."""
    packer = zlib.compressobj(wbits=_GZIP)
    parts = [packer.compress(part.encode()) for part in _json(value, 2)]
    return base64.b64encode(b"".join([*parts, packer.flush()])).decode()


def _json(value: Any, levels: int) -> Iterator[str]:
    """Yield a value as JSON; an iterator, and the values of dicts at some levels, in parts."""
    if isinstance(value, Iterator):
        yield "["
        for number, one in enumerate(value):
            yield "," if number else ""
            yield from _json(one, 0)
        yield "]"
    elif levels and isinstance(value, dict):
        yield "{"
        for number, (key, one) in enumerate(value.items()):
            yield f"{',' if number else ''}{json.dumps(key)}:"
            yield from _json(one, levels - 1)
        yield "}"
    else:
        yield json.dumps(value, allow_nan=False, separators=(",", ":"))


def _content_security_policy(scripts: list[str]) -> str:
    """Allow only these scripts: no request, no eval, no handler in an attribute."""
    # Inline style is allowed, because Plot writes a style element into each plot.
    digests = [hashlib.sha256(script.encode()).digest() for script in scripts]
    hashes = " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _asset(folder: str, name: str) -> str:
    return resources.files(__package__).joinpath(folder, name).read_text(encoding="utf-8")
