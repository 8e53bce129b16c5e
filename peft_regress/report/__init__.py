"""Turn verdicts and explanations into text, Markdown or JSON values. No IO, no judgement."""

from peft_regress.report.document import as_text
from peft_regress.report.explain import explanation
from peft_regress.report.history import encode_history, history_document
from peft_regress.report.markdown import as_markdown
from peft_regress.report.results import results_table
from peft_regress.report.sentences import contents_line
from peft_regress.report.times import encode_times, times_document
from peft_regress.report.verdict.cases import case_text
from peft_regress.report.verdict.sections import verdict_markdown, verdict_text
from peft_regress.report.verdict.to_json import encode_explanation, encode_verdict

__all__ = [
    "as_markdown", "as_text", "case_text", "contents_line", "encode_explanation", "encode_history",
    "encode_times", "encode_verdict", "explanation", "history_document", "results_table",
    "times_document", "verdict_markdown", "verdict_text",
]  # fmt: skip
