"""tools/docs/choices.py: the tables of docs/choosing.md, and the rules that rest on them."""

import choices as tool
import evidence_tables
import pytest

from peft_regress.catalogue.evidence import Evidence, Study, Trained, read_evidence
from peft_regress.choosing.candidates import Answer, Limits
from peft_regress.choosing.ranking import Candidate, Costs


def candidate(name, update, memory, ship):
    method, _, rank = name.partition("-r")
    costs = Costs(update=update, memory=memory, ship=ship, storage=0)
    return Candidate(method=method, rank=int(rank) if rank else None, costs=costs)


@pytest.fixture
def made(monkeypatch):
    """A network with three methods, of which the best takes the most."""
    every = [
        candidate("full", 100, 100, 100), candidate("lora-r4", 70, 90, 5),
        candidate("head", 20, 15, 1),
    ]  # fmt: skip
    priced = Answer(subject=None, limits=Limits(), candidates=every, refused={}, untried=[])
    accuracies = {
        "full": (0.90, 0.91, 0.92),
        "lora-r4": (0.85, 0.86, 0.87),
        "head": (0.6, 0.6, 0.6),
    }
    study = Study(
        images="x", batch=1, steps=10, chance=0.1, untrained=0.1, curve={5: 0.9, 10: 0.9},
        methods={name: Trained(rate=1, early=of, final=of) for name, of in accuracies.items()},
    )  # fmt: skip
    monkeypatch.setattr(tool, "priced", lambda *_: priced)
    evidence = Evidence(packages={}, studies={"unseen": {"net": study}})
    monkeypatch.setattr(tool, "read_evidence", lambda: evidence)


@pytest.mark.usefixtures("made")
def test_each_cell_is_the_answer_under_its_limit():
    _, _, row = tool.choices("unseen").splitlines()
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    # Half of the memory leaves the head, as does a fifth; 3/4 of the FLOPs and a tenth, LoRA.
    assert cells == ["net", "full", *["head (-31.0)"] * 2, *["lora-r4 (-5.0)"] * 2]


@pytest.mark.nightly
@pytest.mark.parametrize("name", tool.TABLES)
def test_each_table_is_on_the_page_as_it_is_made_now(name, monkeypatch):
    """Of the smallest network alone, which stands for the others."""
    monkeypatch.setattr(tool, "networks", lambda _: ["shufflenet_v2_x0_5"])
    page = tool.PAGE.read_text()
    start, end = f"<!-- choices:{name} -->", f"<!-- /choices:{name} -->"
    (shown,) = page.split(start)[1:]
    rows = shown.split(end)[0]
    for line in tool.TABLES[name]().splitlines():
        assert line in rows


def test_every_studied_network_has_its_rows():
    page = tool.PAGE.read_text()
    for task in tool.TASKS:
        rows = page.split(f"<!-- choices:{task} -->")[1].split("<!-- /")[0]
        shown = [line.split("|")[1].strip() for line in rows.strip().splitlines()[2:]]
        assert shown == sorted(read_evidence().studies[task])


# tools/docs/evidence_tables.py: what its cells, rows and columns are


def test_a_cell_has_the_mean_and_the_paired_interval():
    """Differences of 1, 2 and 3 points: 2 +- 4.303 x 1 / sqrt(3)."""
    scores = {"full": (0.5, 0.6, 0.7), "head": (0.51, 0.62, 0.73)}
    assert evidence_tables.cell(scores, "head") == "+2.0±2.5"
    assert evidence_tables.cell(scores, "full") == "60.0"
    assert evidence_tables.cell(scores, "lora-r4") == "-"


def test_a_table_has_a_row_for_each_method_and_a_column_for_each_network(monkeypatch):
    trained = Trained(rate=1, early=(0.4, 0.4), final=(0.8, 0.8), parts={"severity-1": 0.9})
    study = Study(
        images="x", batch=1, steps=50, chance=0.1, untrained=0.2, curve={50: 0.8, 100: 0.81},
        methods={"head": trained, "full": trained}, hours=1.25,
    )  # fmt: skip
    evidence = Evidence(packages={}, studies={"shift": {"net": study, "a": study}})
    monkeypatch.setattr(evidence_tables, "read_evidence", lambda: evidence)
    assert evidence_tables.accuracy("shift", "final").splitlines() == [
        "| method | a | net |", "| --- | ---: | ---: |", "| steps | 50 | 50 |",
        "| guessing | 10.0 | 10.0 |", "| untrained | 20.0 | 20.0 |",
        "| `full` | 80.0 | 80.0 |", "| `head` | +0.0±0.0 | +0.0±0.0 |",
    ]  # fmt: skip
    assert "| `shift` | a | 50/100 | 80.0/81.0 | 50 | 1.2 |" in evidence_tables.learning()
