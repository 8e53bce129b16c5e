"""Write a document as HTML for the page, in which no string becomes an element."""

import html
import re
from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final
from urllib.parse import quote

from peft_regress.report import document as doc
from peft_regress.report.layout import Row, Table
from peft_regress.report.markdown import MOST_CASES, folded_rows, more_rows
from peft_regress.text import count_of

_LONG: Final = 40
"""Beyond so many letters, a cell has several lines."""
_BREAKS: Final = re.compile(r"(?<=[/-])(?=.)")
"""Where a line may break within a name."""


class HtmlWriter:
    """Write documents for a page that has some cases."""

    def __init__(self, cases: Collection[str] = (), *, top: int = 2) -> None:
        """Link to `cases`, by their ids; `top` is the level of the highest heading."""
        self._cases = cases
        self._up = 2 - top

    def document(self, document: doc.Document) -> str:
        """Return a document as HTML."""
        return "".join(self._blocks(document))

    def _blocks(self, parts: Iterable[doc.Block]) -> Iterator[str]:
        for kind, group in groupby(parts, key=doc.kind_of):
            if kind is doc.Command:
                steps = (self._step(part) for part in group if isinstance(part, doc.Command))
                yield f'<dl class="steps">{"".join(steps)}</dl>'
            elif kind is doc.Line:
                yield f'<ul class="about">{"".join(map(self._line, group))}</ul>'
            else:
                yield from map(self._block, group)

    def _block(self, part: doc.Block) -> str:
        if isinstance(part, doc.Section):
            return self._section(part)
        if isinstance(part, Table):
            shown, rest = folded_rows(part.rows, part.most_rows)
            more = folded(more_rows(rest), self._table(part, rest)) if rest else ""
            return self._table(part, shown) + more
        if isinstance(part, doc.Cases):
            return self._names(part.ids)
        assert isinstance(part, doc.Listing)  # noqa: S101  (the others are grouped)
        return f"<pre>{html.escape(part.text)}</pre>"

    def _section(self, section: doc.Section) -> str:
        title = doc.joined(section.title, self._inline)
        body = "".join(self._blocks(section.body))
        if section.folded:
            return folded(title, body)
        tag = f"h{section.level - self._up}" if section.level else "p"
        style = "" if section.style is None else f' class="{section.style}"'
        return f"<{tag}{style}>{title}</{tag}>{body}" if title else body

    def _line(self, part: doc.Block) -> str:
        line = doc.line_of(part)
        words = doc.joined(line.words, self._inline)
        return f"<li>{folded(words, self._names(line.cases)) if line.cases else words}</li>"

    def _step(self, step: doc.Command) -> str:
        command = html.escape(" ".join(step.words))
        return f"<dt>{html.escape(step.purpose)}</dt><dd><code>{command}</code></dd>"

    def _names(self, names: Sequence[str]) -> str:
        shown, rest = folded_rows(names, MOST_CASES)
        more = folded(count_of(len(rest), "more case"), self._list(rest)) if rest else ""
        return self._list(shown) + more

    def _list(self, names: Iterable[str]) -> str:
        items = "".join(f"<li>{self._case(name)}</li>" for name in names)
        return f'<ul class="case-list">{items}</ul>'

    def _case(self, shown: str) -> str:
        name = shown.id if isinstance(shown, doc.CaseId) else shown
        text = _BREAKS.sub("<wbr>", html.escape(shown, quote=False))
        if name not in self._cases:
            return f'<span class="mono">{text}</span>'
        address = f"#/case/{quote(name, safe='', errors='replace')}"
        return f'<a class="case" href="{address}">{text}</a>'

    def _inline(self, text: str) -> str:
        if isinstance(text, doc.CaseId):
            return self._case(text)
        shown = html.escape(text)
        if isinstance(text, doc.Badge):
            return f'<span class="badge {text.kind}">{shown}</span>'
        return f"<code>{shown}</code>" if isinstance(text, doc.Code) else shown

    def _table(self, content: Table, rows: Sequence[Row]) -> str:
        frame, written = self.parts(content, rows)
        return frame.replace("<tbody>", f"<tbody>{''.join(written)}", 1)

    def parts(self, content: Table, rows: Sequence[Row] | None = None) -> tuple[str, list[str]]:
        """Return a table without rows, and its rows, each as HTML."""
        columns = content.columns()
        units = content.units or ("",) * len(content.headings)
        names = [f"{content.headings[at]} {units[at]}".strip() for at in columns]
        with_notes = any(row.notes for row in content.rows)
        heads = "".join(
            f'<th scope="col"{_class(content, at)}{_about(content, at)}>{html.escape(name)}</th>'
            for at, name in zip(columns, names, strict=True)
        )
        label = html.escape(content.caption or ", ".join(filter(None, names)))
        frame = (
            f'<div class="scroll" tabindex="0" role="region" aria-label="{label}"><table>'
            f'<caption class="unseen">{label}</caption>'
            f"<thead><tr>{heads}{'<td></td>' * with_notes}</tr></thead>"
            "<tbody></tbody></table></div>"
        )
        chosen = content.rows if rows is None else rows
        return frame, [self._row(content, row, columns, with_notes) for row in chosen]

    def _row(self, content: Table, row: Row, columns: Sequence[int], with_notes: bool) -> str:  # noqa: FBT001
        first, *others = columns
        part = ' class="part"' if row.is_part else ""
        cells = [f'<th scope="row"{part}>{self._inline(row.cells[first])}</th>']
        for at in others:
            text = row.cells[at]
            exact = ""
            if isinstance(text, doc.Number) and text.value is not None:
                exact = f' title="{html.escape(text.exact)}" data-value="{text.value!r}"'
            kind = _class(content, at) or (' class="words"' if len(text) > _LONG else "")
            cells.append(f"<td{kind}{exact}>{self._inline(text)}</td>")
        if with_notes:
            cells.append(f'<td class="words">{html.escape("; ".join(row.notes))}</td>')
        return f"<tr>{''.join(cells)}</tr>"


def folded(summary: str, content: str) -> str:
    """Return HTML that is shown when its summary, in HTML too, is opened."""
    return f"<details><summary>{summary}</summary>{content}</details>"


def _class(content: Table, at: int) -> str:
    return ' class="number"' if at in content.numbers else ""


def _about(content: Table, at: int) -> str:
    about = content.about[at] if content.about else ""
    return f' title="{html.escape(about)}"' if about else ""
