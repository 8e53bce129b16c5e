"""Put the page together: template, style, scripts and data in one file that asks no network."""

from __future__ import annotations

import base64
import hashlib
import json
from importlib import resources
from typing import Any

from jinja2 import Environment, StrictUndefined

__all__ = ["LIBRARIES", "SCRIPTS", "STYLES", "embed_json", "render_page"]

LIBRARIES: tuple[str, ...] = ("d3.min.js", "plot.umd.min.js")
"""The vendored libraries, in the order that they are loaded in."""

STYLES: tuple[str, ...] = ("colours.css", "frame.css", "content.css", "media.css")
"""The style sheets, joined in this order."""

SCRIPTS: tuple[str, ...] = (
    "model.js",
    "format.js",
    "dom.js",
    "controls.js",
    "palette.js",
    "figure.js",
    "pareto.js",
    "costs.js",
    "case_table.js",
    "history_table.js",
    "history_plot.js",
    "memory_plot.js",
    "view_compare.js",
    "view_history.js",
    "view_memory.js",
    "view_ranks.js",
    "view_table.js",
    "view_case.js",
    "view_fit.js",
    "view_overview.js",
    "theme.js",
    "router.js",
)
"""The page's own scripts, joined in this order: each uses those before it."""

_JSON_ESCAPES = {ord(c): f"\\u{ord(c):04x}" for c in "<>&\u2028\u2029"}


def render_page(data: dict[str, Any]) -> str:
    """Return the page that shows `data` as one HTML file; docs/report.md says what is in it.

    `data` are standard JSON values, whose strings may be anything. Raises ValueError on NaN.
    """
    scripts = [_asset("vendor", name) for name in LIBRARIES]
    scripts.append("\n".join(_asset("assets", name) for name in SCRIPTS))
    template = Environment(
        autoescape=True, undefined=StrictUndefined, keep_trailing_newline=True
    ).from_string(_asset("assets", "page.html"))
    return template.render(
        policy=_content_security_policy(scripts),
        style="\n".join(_asset("assets", name) for name in STYLES),
        scripts=scripts,
        data=embed_json(data),
    )


def embed_json(value: Any) -> str:
    """Write a value as JSON that no string in it can end, or comment out, its element by."""
    text = json.dumps(value, allow_nan=False, separators=(",", ":"))
    return text.translate(_JSON_ESCAPES)


def _content_security_policy(scripts: list[str]) -> str:
    """Allow these very scripts and nothing else: no request, no eval, no handler in an attribute.

    Inline style is allowed: Plot writes a style element into each plot.
    """
    hashes = " ".join(f"'sha256-{_digest(script)}'" for script in scripts)
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; "
        "base-uri 'none'; form-action 'none'"
    )


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()


def _asset(folder: str, name: str) -> str:
    return (
        resources.files("peft_regress.report.page")
        .joinpath(folder, name)
        .read_text(encoding="utf-8")
    )
