"""Write a run in the formats of other tools. Pure: a run in, text out; no IO, no judgement.

To add a format, write a module that registers an `Exporter`, and import it below.
"""

from peft_regress.report.export import bencher, csv_table, github_action_benchmark, junit
from peft_regress.report.export.exporter import (
    EXPORTERS,
    Exporter,
    directions,
    left_out,
    register,
    texts_of,
)
from peft_regress.report.export.junit import metric_properties
from peft_regress.report.export.narrowing import narrow

__all__ = [
    "EXPORTERS",
    "Exporter",
    "bencher",
    "csv_table",
    "directions",
    "github_action_benchmark",
    "junit",
    "left_out",
    "metric_properties",
    "narrow",
    "register",
    "texts_of",
]
