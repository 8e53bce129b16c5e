"""Write a run in the formats of other tools. Pure: a run in, text out; no IO, no judgement."""

from peft_regress.report.export.bencher import bencher_json
from peft_regress.report.export.csv_table import csv_table
from peft_regress.report.export.github_action_benchmark import (
    DIRECTIONS,
    directed_metrics,
    github_action_benchmark_json,
)
from peft_regress.report.export.junit import junit_xml, metric_properties
from peft_regress.report.export.narrowing import narrow, without_metrics

__all__ = [
    "DIRECTIONS",
    "bencher_json",
    "csv_table",
    "directed_metrics",
    "github_action_benchmark_json",
    "junit_xml",
    "metric_properties",
    "narrow",
    "without_metrics",
]
