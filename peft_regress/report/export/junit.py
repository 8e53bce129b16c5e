"""JUnit XML: a test case for each case, with its metrics as properties.

There is no standard. Elements and attributes follow Jenkins' schema
(https://github.com/jenkinsci/xunit-plugin, junit-10.xsd). A test case has `properties` as pytest
writes them and https://github.com/testmoapp/junitxml describes them.
"""

from __future__ import annotations

import re
from collections import Counter
from typing import TYPE_CHECKING, Final
from xml.etree import ElementTree as ET

from peft_regress.report.export.exporter import Exporter, register
from peft_regress.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable

    from peft_regress.runs.schema import Record, Run

_TAGS: Final = {"error": "error", "unsupported": "skipped"}
"""By status: the element that explains why a case has no metrics."""


_COMMAND: Final = re.compile(r"^(\s*)::|##\[", re.MULTILINE)
"""What GitHub's runner takes for a command in its log."""


def metric_properties(record: Record) -> list[tuple[str, int | float | str]]:
    """Return the metrics of a case as properties of its test, exact and unscaled.

    A case that repeats another run has that run in place of its accuracy.
    """
    found: list[tuple[str, int | float | str]] = [
        (name, metric.value) for name, metric in record.metrics.items()
    ]
    repeated = record.repeated_run
    return found if repeated is None else [*found, ("repeats", repeated)]


def junit_xml(run: Run) -> str:
    """Return a run as one test suite: cases in error have `error`, unsupported ones `skipped`."""
    counts = Counter(record.status for record in run)
    suites = ET.Element("testsuites")
    suite = ET.SubElement(
        suites,
        "testsuite",
        name="peft_regress",
        tests=str(len(run.cases)),
        failures="0",
        errors=str(counts["error"]),
        skipped=str(counts["unsupported"]),
    )
    _add_properties(suite, run.environment.items())
    for record in run:
        _add_case(suite, record)
    ET.indent(suites)
    text = _COMMAND.sub(_referred, ET.tostring(suites, "unicode"))
    return f'<?xml version="1.0" encoding="utf-8"?>\n{text}\n'


def _referred(found: re.Match[str]) -> str:
    """Return the same characters as references, which no log takes for a command."""
    blanks = found[1] or ""
    letters = found[0].removeprefix(blanks)
    return blanks + "".join(f"&#{ord(letter)};" for letter in letters)


def _add_case(suite: ET.Element, record: Record) -> None:
    case = record.case
    classname = printable(f"{case.task}.{case.architecture}")
    element = ET.SubElement(suite, "testcase", classname=classname, name=printable(case.id))
    _add_properties(element, metric_properties(record))
    if record.error is not None:
        tag = _TAGS[record.status]
        message = printable(record.error.message)
        why = ET.SubElement(element, tag, type=printable(record.error.type), message=message)
        why.text = "\n".join(map(printable, record.error.message.splitlines()))


def _add_properties(element: ET.Element, properties: Iterable[tuple[str, object]]) -> None:
    """Add properties; characters that XML 1.0 does not allow become escapes."""
    found = [(printable(name), printable(str(value))) for name, value in properties]
    if found:
        parent = ET.SubElement(element, "properties")
        for name, value in found:
            ET.SubElement(parent, "property", name=name, value=value)


JUNIT: Final = register(Exporter(name="junit", write=lambda run: {"": junit_xml(run)}))
