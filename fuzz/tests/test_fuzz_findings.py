"""Findings on disk, and the corpus: strict to read, written whole, changed by `accept` alone."""

import json

import pytest
from fuzz_examples import PACKAGES, example, failure, finding, layer
from msgspec.structs import replace

from peft_fuzz.cli import main
from peft_fuzz.example import Outcome
from peft_fuzz.search.findings import (
    Range,
    accept_findings,
    read_corpus,
    read_finding,
    write_finding,
)
from peft_fuzz.search.replay import judged
from peft_regress.errors import InputError, RunFileError

RANGE = Range(package="peft", failing=("0.21.2",), passing=("0.20.0",), first="0.21.2")


def test_a_finding_is_read_as_it_was_written(tmp_path):
    made = finding(example(layer("conv2d", padding="same")), seed=3, releases=RANGE)
    path = write_finding(tmp_path, made)
    read = read_finding(path)
    assert replace(read, content_digest="") == made
    written = path.read_bytes()
    assert write_finding(tmp_path, read).read_bytes() == written


def altered(**changes):
    return lambda value: value.update(changes)


def adapter(**changes):
    return lambda value: value["example"]["adapters"][0].update(changes)


def of_example(**changes):
    return lambda value: value["example"].update(changes)


NO_FINDING, ALTERED = "is no finding", "was altered"
OUTSIDE = {"act": "load_beside", "adapter": "default", "name": "/outside"}
BROKEN = [
    (altered(surprise=1), "unknown field `surprise`"),
    (altered(schema_version=2), NO_FINDING),
    (altered(kind="run"), NO_FINDING),
    (altered(packages={"peft": "0.21.1"}), ALTERED),
    (altered(packages={"../peft": "0.21.1"}), NO_FINDING),
    (lambda value: value["cause"].update(check="../merged"), NO_FINDING),
    (of_example(acts=[{"act": "jump"}]), NO_FINDING),
    (of_example(acts=[OUTSIDE]), NO_FINDING),
    (lambda value: value.pop("content_digest"), ALTERED),
    (adapter(name="../../outside"), NO_FINDING),
    (adapter(settings={"r=[print()], target_modules": []}), NO_FINDING),
]


@pytest.mark.parametrize(("alter", "problem"), BROKEN)
def test_a_file_that_cannot_be_trusted_says_what_is_wrong_and_what_to_do(tmp_path, alter, problem):
    path = write_finding(tmp_path, finding())
    value = json.loads(path.read_bytes())
    alter(value)
    path.write_text(json.dumps(value))
    with pytest.raises(RunFileError) as raised:
        read_finding(path)
    for content in (b"", b"[]", b"\xff"):
        path.write_bytes(content)
        with pytest.raises(RunFileError):
            read_finding(path)
    assert all(part in str(raised.value) for part in (problem, "git checkout", str(path)))


class Corpus:
    """A folder of findings, and the corpus that they are accepted into."""

    def __init__(self, tmp_path):
        self.source, self.folder = tmp_path / "found", tmp_path / "corpus"

    def accept(self, *findings, reason="known", **how):
        for one in findings:
            write_finding(self.source, one)
        return accept_findings(self.source, corpus=self.folder, reason=reason, **how)

    def read(self):
        return read_corpus(self.folder)


@pytest.fixture
def corpus(tmp_path):
    return Corpus(tmp_path)


UNBIASED = finding(example(layer(bias=False)))
MENDED = finding(mended={**PACKAGES, "peft": "0.22.0"})


def test_accepted_findings_are_the_corpus_and_one_that_is_there_stops_the_whole_folder(corpus):
    assert len(corpus.accept(finding(), UNBIASED, reported="peft#1")) == 2
    entries = corpus.read()
    assert [one.name for one in entries] == sorted([finding().name, UNBIASED.name])
    accepted = {(one.accepted.reason, one.accepted.reported) for one in entries}
    assert accepted == {("known", "peft#1")}
    with pytest.raises(InputError, match="is there already"):
        corpus.accept(finding(example(layer("conv1d"))))
    assert corpus.read() == entries


def test_a_mended_entry_stays_and_keeps_where_it_was_reported(corpus):
    corpus.accept(finding(), reported="peft#1")
    corpus.accept(MENDED)
    (entry,) = corpus.read()
    assert entry.mended["peft"] == "0.22.0"
    assert entry.accepted.reported == "peft#1"
    with pytest.raises(InputError, match="known as mended already"):
        corpus.accept(MENDED)


@pytest.mark.parametrize(
    ("one", "how", "problem"),
    [
        (MENDED, {}, "has no such one"),
        *((finding(), {"reason": text}, "--reason") for text in ("", " ", "two\nlines", "x" * 401)),
        *(
            (finding(), {"reported": text}, "--reported")
            for text in ("", "nonsense", "peft#", "peft#1 ", "peft#1\n", "a b#3")
        ),
    ],
)
def test_what_is_refused_makes_no_corpus(corpus, one, how, problem):
    with pytest.raises(InputError, match=problem):
        corpus.accept(one, **how)
    assert not corpus.folder.exists()


def test_a_corpus_that_cannot_be_trusted_is_refused(corpus):
    path = write_finding(corpus.folder, finding())
    with pytest.raises(RunFileError, match="never accepted"):
        corpus.read()
    path.unlink()
    corpus.accept(finding())
    path.rename(path.with_name("lora-merged-00000000.json"))
    with pytest.raises(RunFileError, match="Rename it to"):
        corpus.read()


def test_the_command_accepts_a_finding_once(corpus, capsys):
    path = write_finding(corpus.source, finding())
    for code in (0, 2):
        with pytest.raises(SystemExit) as ended:
            main(["accept", str(path), "--reason", "known", "--corpus", str(corpus.folder)])
        assert ended.value.code == code
    said = capsys.readouterr()
    assert f"stored: {corpus.folder}/{path.name}" in said.out
    assert "is there already" in said.err


@pytest.mark.parametrize(
    ("one", "ended", "state"),
    [
        (finding(), Outcome(failure=failure()), "still there"),
        (finding(), Outcome(failure=failure(act=0, where="x:y", error="E")), "still there"),
        (finding(), Outcome(), "mended"),
        (finding(), Outcome(refused="groups"), "mended"),
        (finding(), Outcome(failure=failure("unmerged")), "new"),
        (finding(mended=PACKAGES), Outcome(failure=failure()), "new"),
        (finding(mended=PACKAGES), Outcome(), "mended"),
        (finding(), Outcome(absent="method"), "absent"),
    ],
)
def test_the_state_of_an_entry_follows_from_its_outcome(one, ended, state):
    assert judged(one, ended).state == state
