"""Turn verdicts and explanations into text, Markdown or JSON values. No IO, no judgement."""

from peft_regress.report.encode import encode_explanation, encode_verdict
from peft_regress.report.explain import explanation_markdown, explanation_text
from peft_regress.report.history import encode_history, history_markdown, history_text
from peft_regress.report.lines import contents_line
from peft_regress.report.markdown import verdict_markdown
from peft_regress.report.next_steps import Typed
from peft_regress.report.results import results_table
from peft_regress.report.text import case_text
from peft_regress.report.times import encode_times, times_markdown, times_text
from peft_regress.report.verdict import verdict_text

__all__ = [
    "Typed",
    "case_text",
    "contents_line",
    "encode_explanation",
    "encode_history",
    "encode_times",
    "encode_verdict",
    "explanation_markdown",
    "explanation_text",
    "history_markdown",
    "history_text",
    "results_table",
    "times_markdown",
    "times_text",
    "verdict_markdown",
    "verdict_text",
]
