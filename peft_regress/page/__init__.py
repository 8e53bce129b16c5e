"""The report as one self-contained HTML page: the values it shows, and how it is put together."""

from peft_regress.page.render import render_page

__all__ = ["render_page"]
