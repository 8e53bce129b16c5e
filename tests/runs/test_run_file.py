"""Run files: round trips, shared ledgers, every kind of damage, and the shards of one run."""

import errno
import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest
from builders import (
    BOTH,
    DATE,
    FULL,
    GALORE,
    LEDGER,
    LORA,
    OTHER_MACHINE,
    UNSEEN_LORA,
    make_document,
    make_record,
    make_run,
    rich_run,
    shard,
    write_run,
)

from peft_regress.errors import InputError, RunFileError
from peft_regress.metrics import Metric
from peft_regress.runs.run_file import read_run, read_run_file
from peft_regress.runs.schema import MIXED_MACHINES, Selection, canonical_digest

ACCEPTED = {"reason": "r", "date": DATE, "role": "baseline", "entry": "Linux/0001_x"}


@pytest.fixture
def run_file(tmp_path):
    return write_run(tmp_path / "run.json", rich_run())


def test_what_was_written_is_read_back(run_file):
    read = read_run_file(run_file)
    assert msgspec.structs.replace(read.run, content_digest="") == rich_run()
    assert read.document == make_document(rich_run())
    again = write_run(run_file.parent / "a folder" / "my run.json", rich_run())
    assert again.read_bytes() == run_file.read_bytes(), "the same run is the same bytes"
    assert again.stat().st_mode & 0o777 == 0o644, "others may read it"


def test_samples_that_are_whole_numbers_are_read_back(tmp_path):
    """They are read as floats; the digest must be that of what is read."""
    metric = Metric(value=1.5, unit="nat", direction="lower", kind="accuracy", samples=[1, [2, 3]])
    path = write_run(tmp_path / "run.json", make_run(make_record(LORA, {"loss": metric})))
    assert read_run_file(path).run.cases[LORA].metrics["loss"] == metric


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0])
def test_a_number_that_could_not_be_read_is_not_written(tmp_path, value):
    with pytest.raises(InputError, match="forward_flops"):
        write_run(tmp_path / "run.json", make_run(make_record(LORA, {"forward_flops": value})))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda text: text.replace("\n", "\r\n"),
        lambda text: json.dumps(json.loads(text), indent=4),
        lambda text: json.dumps(reversed_keys(json.loads(text))),
    ],
    ids=["line ends", "indent", "order"],
)
def test_the_same_content_in_another_form_is_the_same_run(run_file, change):
    before = read_run_file(run_file).run
    run_file.write_bytes(change(run_file.read_text()).encode())
    assert read_run_file(run_file).run == before


def reversed_keys(value):
    if isinstance(value, dict):
        return {key: reversed_keys(value[key]) for key in reversed(value)}
    return [reversed_keys(item) for item in value] if isinstance(value, list) else value


def test_a_ledger_of_two_tasks_stands_in_the_file_once_and_in_memory_twice(run_file):
    ours = json.loads(run_file.read_text())["peft_regress"]
    digest = ours["cases"][LORA]["ledger"]
    assert digest == ours["cases"][UNSEEN_LORA]["ledger"]
    assert digest == canonical_digest(ours["ledgers"][digest])
    assert len(ours["ledgers"]) == 2
    read = read_run_file(run_file).run
    assert read.cases[UNSEEN_LORA].ledger == read.cases[LORA].ledger == LEDGER
    bare = read_run_file(run_file, ledgers=False).run.cases[LORA]
    assert (bare.ledger, bare.metrics) == (digest, rich_run().cases[LORA].metrics)


def refused(path, match):
    """Check that a file is refused, in a short line that names the file, with a remedy."""
    with pytest.raises(RunFileError, match=match) as caught:
        read_run_file(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ".replace("\n", r"\n"))
    assert message.isprintable()
    assert len(message) < 700 + 2 * len(str(path))
    assert caught.value.remedy
    return caught.value


def changed(path, change, *, sign=True):
    """Change the object `peft_regress` of a file, by default with a digest that fits again."""
    document = json.loads(path.read_text())
    ours = document["peft_regress"]
    change(ours)
    if sign:
        content = {key: ours[key] for key in ours if key not in {"content_digest", "ledgers"}}
        ours["content_digest"] = canonical_digest(content)
    path.write_text(json.dumps(document))
    return path


def ledger_of(ours, case=LORA):
    """Return the ledger of a case in the object of a file."""
    return ours["ledgers"][ours["cases"][case]["ledger"]]


def put(value):
    """Put something in the place of a number of FLOPs."""
    return lambda text: text.replace(b"3638000000", value, 1)


TEXT = [
    *(
        (lambda _, text=text: text, "not valid JSON")
        for text in (b"", b"null", b"[]", b"\0\xff", b"{}x")
    ),
    (lambda text: text[:-3], "not valid JSON"),
    *((put(value), "not valid JSON") for value in (b"NaN", b"-Infinity")),
    *((put(value), "value out of range|Number out of range") for value in (b"1e999", b"1" * 5000)),
    (put(10**5 * b"[" + 10**5 * b"]"), "not valid JSON"),
    (put(b"3638000001"), "was altered .*content_digest"),
    (put(b"-1"), f"{LORA}: metric 'forward_flops' is -1"),
    (lambda _: b'{"peft_regress": []}', "no object 'peft_regress'"),
    (lambda _: json.dumps(make_document(make_run())).encode(), "not a run file of this tool"),
    (lambda text: text.replace(b'"benchmarks": [', b'"benchmarks": {}, "x": ['), "'benchmarks' is"),
    (
        lambda text: text.replace(b"\n", b"\n<<<<<<< HEAD\n", 5),
        "conflict markers.*git checkout --theirs -- ",
    ),
]
"""What happens to the text of a file, and the refusal."""


@pytest.mark.parametrize(("damage", "message"), TEXT)
def test_a_file_whose_text_was_damaged_is_refused(run_file, damage, message):
    run_file.write_bytes(damage(run_file.read_bytes()))
    refused(run_file, message)


def case(name=LORA, **keys):
    return lambda ours: ours["cases"][name].update(keys)


def metric(name="forward_flops", **keys):
    return lambda ours: ours["cases"][LORA]["metrics"][name].update(keys)


def flops(value):
    return metric(value=value)


def samples(value):
    return metric("loss", samples=value)


def schema(version):
    return lambda ours: ours.update(schema_version=version)


def accept(**keys):
    return lambda ours: ours.update(accepted={**ACCEPTED, **keys})


def add_ledger(ours):
    ours["ledgers"][canonical_digest({"peak_phase": {"a": "b"}})] = {"peak_phase": {"a": "b"}}


def rename(ours):
    ours["cases"]["shift/lora-r8/resnet18"] = ours["cases"].pop(LORA)


OF_SCHEMA = "does not fit the schema"
DIGESTS = ("", "sha256:" + 64 * "0", "\x1b" + "x\n" * 1000)
SIGNED = [
    # numbers
    *((flops(value), r"at `\$.cases\[...\].metrics\[...\].value") for value in ("1", None, True)),
    *((flops(value), "not a finite number|never negative") for value in (1e101, 10**400, -1)),
    *((samples(value), OF_SCHEMA) for value in ([True], ["x"], {"a": 1})),
    *((samples(value), "not a finite|out of range") for value in ([10**400], [[1e200]])),
    *(
        (lambda ours, n=n: ledger_of(ours)["modules"][""].update(optimizer_flops=n), OF_SCHEMA)
        for n in (-1, 2**63, 1.5)
    ),
    *((metric(**{key: "vague"}), f"at `.*{key}`") for key in ("unit", "direction", "kind")),
    *(
        (case(**keys), OF_SCHEMA)
        for keys in ({"invariants": {"merge": 1}}, {"rates": [[]]}, {"test_items": 0})
    ),
    # unknown and missing keys
    (lambda ours: ours.update(surprise=1), "unknown field `surprise`"),
    (lambda ours: ours["machine"].update(host="mine"), "unknown field `host`"),
    (case(surprise=1), "unknown field `surprise`"),
    (lambda ours: ledger_of(ours).update(surprise={}), "unknown field `surprise`"),
    (lambda ours: ours["cases"][GALORE]["error"].update(surprise=1), "unknown field `surprise`"),
    (accept(surprise=1), "unknown field `surprise`"),
    *(
        (lambda ours, key=key: ours.pop(key), f"missing required field `{key}`")
        for key in ("environment", "machine", "selection", "cases", "metrics_known")
    ),
    # schemas
    *((schema(version), "newer than 2, .*Upgrade") for version in (3, 10**30)),
    *((schema(version), "older than 2, .*accept") for version in (1, -1, None, "1", True)),
    (lambda ours: ours.update(schema_version=3, surprise=1), "newer"),
    # ledgers
    (
        lambda ours: ours["ledgers"].pop(ours["cases"][LORA]["ledger"]),
        f"{LORA}: its ledger sha256:.* is not in the file",
    ),
    (add_ledger, "the ledger sha256:.* belongs to no case"),
    (case(UNSEEN_LORA, ledger={"peak_phase": {"a": "b"}}), "is in its record"),
    (case(ledger="../../x"), OF_SCHEMA),
    # contradictions
    (rename, f"has the record of '{LORA}'"),
    (case(GALORE, status="ok"), f"{GALORE}: status 'ok' with error"),
    (case(error=None, status="error"), f"{LORA}: status 'error' with error None"),
    (case(metrics={}), f"{LORA}: status 'ok' with 0 metrics"),
    (metric("accuracy", value=0.1), f"{LORA}: metric 'accuracy' is 0.1, but the mean of its s"),
    (accept(date="2026-01-02T03:04:05"), "a time with its zone"),
    (accept(retired=[LORA]), f"{LORA} cannot be retired by a run that has it"),
    (accept(role="history", retired=["a/b/c"]), "cannot retire"),
    # whatever a file holds, the message is a short line
    (lambda ours: ours.update({"\n\x1b[31m" * 1000: 1}), "."),
    (lambda ours: ours.update(schema_version=[["x\n"]] * 1000), "."),
    (lambda ours: ours["cases"][LORA]["metrics"].update({"\n" * 1000: "no metric"}), "."),
    (accept(date="\n" * 1000), "."),
]
"""Changes under a digest that fits, and the refusal."""


@pytest.mark.parametrize(("change", "message"), SIGNED)
def test_what_does_not_fit_is_refused_although_the_digest_does(run_file, change, message):
    path = changed(run_file, change)
    path.write_text(path.read_text().replace("Infinity", "1e999"))
    refused(path, message)


@pytest.mark.parametrize(
    "change",
    [
        lambda ours: ours["cases"].pop(FULL),
        lambda ours: ours["environment"].update(peft="0.1"),
        case(definition="sha256:x"),
        lambda ours: ledger_of(ours)["modules"][""].update(optimizer_flops=1),
        lambda ours: ledger_of(ours)["peak_phase"].update(peak_bytes="forward"),
        lambda ours: ours["cases"][UNSEEN_LORA].update(ledger=ours["cases"][FULL]["ledger"]),
        lambda ours: ours["selection"].update(complete=True),
        accept(),
        lambda ours: ours.pop("content_digest"),
        *(lambda ours, text=text: ours.update(content_digest=text) for text in DIGESTS),
    ],
)
def test_anything_altered_is_refused(run_file, change):
    refused(changed(run_file, change, sign=False), "was altered|belongs to no case")


def test_the_remedy_can_be_typed_whatever_the_file_is_called(tmp_path):
    with pytest.raises(InputError, match=r"no such run file.*--regress-save"):
        read_run_file(tmp_path / "run.json")
    for name in ("my run;\n.json", "my run.json"):
        path = tmp_path / name
        path.write_text("{")
        refused(path, "not valid JSON")
    refused(path, re.escape(f"`git checkout -- '{path}'`"))


def test_what_a_command_writes_into_a_fifo_is_read(run_file):
    """As in `peft-regress compare <(git show HEAD:run.json) run.json`."""
    reader, writer = os.pipe()
    content = run_file.read_bytes()
    try:
        with ThreadPoolExecutor(1) as pool:
            read = pool.submit(read_run_file, Path(f"/dev/fd/{reader}"))
            with os.fdopen(writer, "wb") as stream:
                stream.write(content)
            assert read.result(timeout=30).run == read_run_file(run_file).run
    finally:
        os.close(reader)


def test_what_cannot_be_read_is_refused(run_file, monkeypatch):
    refused(Path("/dev/zero"), "larger than")
    refused(run_file.parent, "cannot be read")

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    # By a patch, since the permissions of a file mean nothing to root.
    monkeypatch.setattr(Path, "open", denied)
    refused(run_file, r"cannot be read \(Permission denied\)")


def write_shards(folder, *runs):
    for index, run in enumerate(runs, start=1):
        write_run(folder / f"{index}.json", run)
    return folder


FIRST, SECOND = shard(1, make_record(LORA)), shard(2, make_record(FULL))
PARTIAL = Selection(complete=False, narrowed_by=["-k lora"], not_selected=[FULL])
INTERRUPTED = Selection(complete=False)


def test_shards_in_a_folder_are_one_complete_run(tmp_path):
    run = read_run(write_shards(tmp_path, FIRST, SECOND)).run
    assert list(run.cases) == sorted(BOTH)
    assert run.selection == Selection(complete=True)
    assert run.machine.digest == "sha256:here"
    other = write_run(tmp_path / "2.json", shard(2, make_record(FULL), machine=OTHER_MACHINE))
    assert read_run(other.parent).run.machine.digest == MIXED_MACHINES


@pytest.mark.parametrize(
    ("runs", "selection"),
    [
        ([FIRST], FIRST.selection),
        ([make_run(make_record(LORA), selection=PARTIAL)], PARTIAL),
        ([make_run(make_record(LORA), selection=INTERRUPTED)], INTERRUPTED),
        (
            [make_run(make_record(LORA), selection=INTERRUPTED), make_run(make_record(FULL))],
            INTERRUPTED,
        ),
        ([FIRST, msgspec.structs.replace(SECOND, cases={})], None),
    ],
    ids=["one shard", "narrowed", "interrupted", "one interrupted", "shard interrupted"],
)
def test_what_is_incomplete_stays_so_in_a_folder(tmp_path, runs, selection):
    found = read_run(write_shards(tmp_path, *runs)).run.selection
    assert not found.complete
    assert selection is None or found == selection


def test_what_is_no_union_is_refused(tmp_path):
    with pytest.raises(InputError, match="has no run file"):
        read_run(tmp_path)
    write_shards(tmp_path, make_run(), make_run())
    with pytest.raises(InputError, match=rf"case {LORA} is in 1\.json and in 2\.json"):
        read_run(tmp_path)
    (tmp_path / "2.json").write_text("{}")
    with pytest.raises(RunFileError):
        read_run(tmp_path)
    write_shards(
        tmp_path,
        shard(1, make_record(LORA), environment={"peft": "1"}),
        shard(2, make_record(FULL), environment={"peft": "2"}),
    )
    with pytest.raises(InputError, match="peft is 1 in one, 2 in the other"):
        read_run(tmp_path)
