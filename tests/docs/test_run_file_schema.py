"""docs/run-file.schema.json against the stored entries and the strict reader."""

import copy
import json
from pathlib import Path

import pytest
from builders import run_document
from jsonschema import Draft202012Validator
from strategies import fuzz, runs

from peft_regress.errors import InputError
from peft_regress.runs.run_file import read_run_file

ROOT = Path(__file__).parents[2]
SCHEMA = json.loads((ROOT / "docs" / "run-file.schema.json").read_text())
VALIDATOR = Draft202012Validator(SCHEMA)
ENTRIES = sorted((ROOT / "baselines").glob("*/[0-9]*.json"))
OF_EXAMPLES = sorted((ROOT / "examples" / "baselines").glob("*/[0-9]*.json"))
CASE = "shift/head/resnet18"


def problems(document):
    return [f"{error.json_path}: {error.message}" for error in VALIDATOR.iter_errors(document)]


def test_it_is_a_schema():
    Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["$id"] == "run-file.schema.json"
    # Python's end of a text, which the regular expressions of other languages do not have.
    assert "\\Z" not in json.dumps(SCHEMA)


# The first is of schema version 1; the newest of both matrices are among the last.
@pytest.mark.parametrize(
    "entry", [ENTRIES[0], *ENTRIES[-3:], OF_EXAMPLES[-1]], ids=lambda entry: entry.stem
)
def test_a_stored_entry_fits(entry):
    assert problems(json.loads(entry.read_text())) == []


@fuzz(runs(), examples=80)
def test_a_run_that_the_reader_takes_fits(run):
    assert problems(json.loads(json.dumps(run_document(run, {"benchmarks": []})))) == []


@pytest.fixture(scope="module")
def entry():
    (newest,) = (json.loads(path.read_text()) for path in ENTRIES if "0022_" in path.name)
    ours = newest["peft_regress"]
    ours["cases"] = {CASE: ours["cases"][CASE]}
    return newest


def record_of(ours):
    return ours["cases"][CASE]


def without_scores(ours):
    record_of(ours)["repeats"] = "0018"
    del record_of(ours)["metrics"]["loss"]


WRONG = {
    "another version": lambda ours: ours.update(schema_version=3),
    "a key that is not known": lambda ours: record_of(ours).update(colour="red"),
    "a key that is missing": lambda ours: record_of(ours).pop("definition"),
    "an id that leads elsewhere": lambda ours: ours["cases"].update(
        {"shift/../resnet18": ours["cases"].pop(CASE)}
    ),
    "a negative count": lambda ours: record_of(ours)["metrics"]["peak_bytes"].update(value=-1),
    "an error without one": lambda ours: record_of(ours).update(status="error", metrics={}),
    "a baseline without scores": without_scores,
    "a date without a zone": lambda ours: ours["accepted"].update(date="2026-11-25T01:55:52"),
    "a history that retires": lambda ours: ours["accepted"].update(
        role="history", retired=["shift/head/resnet34"]
    ),
    "a digest of another form": lambda ours: ours["accepted"].update(predecessor="md5:0123"),
}


RIGHT = {
    "no commit, as outside a clone": lambda document: document.update(commit_info=None),
    "a key of another plugin": lambda document: document.update(colour="red"),
    "a metric of one's own": lambda document: record_of(document["peft_regress"])["metrics"].update(
        colour={"value": -1, "unit": "ratio", "direction": "none", "kind": "info"}
    ),
}


def refusal(document, folder):
    """Return why the strict reader refuses a document, or what it says of the digest alone."""
    path = folder / "run.json"
    path.write_text(json.dumps(document))
    with pytest.raises(InputError) as refused:
        read_run_file(path)
    return str(refused.value)


@pytest.mark.parametrize("name", [*WRONG, *RIGHT])
def test_the_schema_refuses_what_the_reader_refuses_and_takes_what_it_takes(name, entry, tmp_path):
    document = copy.deepcopy(entry)
    assert problems(document) == []
    assert "was altered" in refusal(document, tmp_path)
    if name in WRONG:
        WRONG[name](document["peft_regress"])
    else:
        RIGHT[name](document)
    # An edited record no longer has its digest, which a schema cannot check.
    assert ("was altered" in refusal(document, tmp_path)) is (name in RIGHT)
    assert (problems(document) == []) is (name in RIGHT)
