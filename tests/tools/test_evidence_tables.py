"""tools/docs/evidence_tables.py: what its cells, rows and columns are."""

import evidence_tables as tool

from peft_regress.catalogue.evidence import Evidence, Study, Trained


def test_a_cell_has_the_mean_and_the_paired_interval():
    """Differences of 1, 2 and 3 points: 2 +- 4.303 x 1 / sqrt(3)."""
    scores = {"full": (0.5, 0.6, 0.7), "head": (0.51, 0.62, 0.73)}
    assert tool.cell(scores, "head") == "+2.0±2.5"
    assert tool.cell(scores, "full") == "60.0"
    assert tool.cell(scores, "lora-r4") == "-"


def test_a_table_has_a_row_for_each_method_and_a_column_for_each_network(monkeypatch):
    trained = Trained(rate=1, early=(0.4, 0.4), final=(0.8, 0.8), parts={"severity-1": 0.9})
    study = Study(
        images="x", batch=1, steps=50, chance=0.1, untrained=0.2, curve={50: 0.8, 100: 0.81},
        methods={"head": trained, "full": trained}, hours=1.25,
    )  # fmt: skip
    evidence = Evidence(packages={}, studies={"shift": {"net": study, "a": study}})
    monkeypatch.setattr(tool, "read_evidence", lambda: evidence)
    assert tool.accuracy("shift", "final").splitlines() == [
        "| method | a | net |", "| --- | ---: | ---: |", "| steps | 50 | 50 |",
        "| guessing | 10.0 | 10.0 |", "| untrained | 20.0 | 20.0 |",
        "| `full` | 80.0 | 80.0 |", "| `head` | +0.0±0.0 | +0.0±0.0 |",
    ]  # fmt: skip
    assert "| `shift` | a | 50/100 | 80.0/81.0 | 50 | 1.2 |" in tool.learning()
