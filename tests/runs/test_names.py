"""Names in files of others end in paths, branches, commands and scripts: what they may be."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from builders import LORA, MACHINE, make_record, make_run, write_run

from peft_regress.baselines.run_adapters import StoredAdapter, keep_adapter
from peft_regress.cases import Case, in_words, is_name
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Record, canonical_digest

if TYPE_CHECKING:
    from pathlib import Path

HOSTILE = {
    "a parent": "../../x",
    "a parent inside": "a..b",
    "an absolute path": "/etc/x",
    "a folder": "a/b",
    "a backslash": "a\\b",
    "hidden": ".git",
    "an option": "-x",
    "a home": "~root",
    "a command": "$(id)",
    "a backtick": "`id`",
    "two commands": "a;id",
    "a variable": "a$b",
    "a quote": "a'b",
    "two quotes": 'a"b',
    "a glob": "a*",
    "a new line": "a\nb",
    "a new line at the end": "a\n",
    "a return": "a\rb",
    "a blank": "a b",
    "nothing": "",
    "nothing in between": "a\0b",
    "an escape": "a\x1b[31m",
    "a revision": "a^",
    "a reflog": "a@{1}",
    "a colon": "a:b",
    "a comment": "a#b",
    "a letter that looks like one": "аb",  # noqa: RUF001  (Cyrillic)
    "another direction": "a\u202eb",
    "too long": "a" * 129,
}
hostile = pytest.mark.parametrize("text", HOSTILE.values(), ids=list(HOSTILE))


def test_every_case_of_the_matrices_has_such_names() -> None:
    for matrix in ("default", "extended"):
        for case in matrix_cases(matrix):
            assert all(map(is_name, (case.task, case.method, case.architecture)))
            assert msgspec.convert(msgspec.to_builtins(case), Case) == case == Case.parse(case.id)


@hostile
def test_no_case_has_a_hostile_name(text: str) -> None:
    assert not is_name(text)
    with pytest.raises(InputError, match="is not a case id"):
        Case.parse(f"shift/{text}/resnet18")


Place = Callable[[dict[str, Any], str], object]


def _part(name: str) -> Place:
    def change(ours: dict[str, Any], text: str) -> None:
        record = ours["cases"].pop(LORA)
        record["case"] |= {name: text}
        case = record["case"]
        ours["cases"][f"{case['task']}/{case['method']}-r4/{case['architecture']}"] = record

    return change


def _accepted(text: str) -> dict[str, Any]:
    accepted = {"reason": "r", "date": "2026-01-02T03:04:05+00:00", "role": "baseline"}
    return {**accepted, "entry": "Linux/0001_x", "retired": [f"shift/{text}/resnet18"]}


PLACES: dict[str, Place] = {
    "task": _part("task"),
    "method": _part("method"),
    "architecture": _part("architecture"),
    "package": lambda ours, text: ours["environment"].update({text: "1.0"}),
    "version": lambda ours, text: ours["environment"].update(peft=text),
    "machine": lambda ours, text: ours["machine"].update(digest=text),
    "left out": lambda ours, text: ours["selection"].update(not_selected=[f"shift/{text}/net"]),
    "retired": lambda ours, text: ours.update(accepted=_accepted(text)),
    "ledger": lambda ours, text: ours["cases"][LORA].update(ledger=text),
    "device": lambda ours, text: ours["cases"][LORA].update(budget={"device": text}),
}


@hostile
@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_run_file_with_a_hostile_name_is_refused_in_a_line_that_says_where(
    tmp_path: Path, place: Any, text: str
) -> None:
    path = write_run(tmp_path / "run.json", make_run(make_record(LORA)))
    document = msgspec.json.decode(path.read_bytes())
    place(document["peft_regress"], text)
    _sign(document)
    path.write_bytes(msgspec.json.encode(document))
    with pytest.raises(RunFileError, match=r"Expected a .*, at \$\.peft_regress\.") as refused:
        read_run_file(path)
    assert str(refused.value).isprintable()


def _sign(document: dict[str, Any]) -> None:
    """Give a run the digest of its content, as whoever forges one would."""
    ours = document["peft_regress"]
    ours.pop("content_digest")
    ours["content_digest"] = canonical_digest(ours)


@pytest.mark.parametrize("rank", [0, -1, 10**9])
def test_a_rank_that_no_id_has_is_refused(rank: int) -> None:
    case = {"task": "shift", "method": "lora", "architecture": "resnet18", "rank": rank}
    with pytest.raises(msgspec.ValidationError, match="rank"):
        msgspec.convert(case, Case)


def test_a_method_that_only_looks_ranked_is_another_case(tmp_path: Path) -> None:
    """Both give the id `shift/lora-r4/resnet18`; what is looked up by method differs."""
    run = make_run(make_record(LORA))
    case = Case(task="shift", method="lora-r4", architecture="resnet18")
    forged = msgspec.structs.replace(run.cases[LORA], case=case)
    path = write_run(tmp_path / "run.json", msgspec.structs.replace(run, cases={LORA: forged}))
    with pytest.raises(RunFileError, match="has the record of"):
        read_run_file(path)


@pytest.mark.parametrize("version", ["1.0", "2.13.0+cpu", "1!2.0", "3.13.0rc1+", "0.0.0-dev_1"])
def test_versions_as_packages_write_them_are_read(tmp_path: Path, version: str) -> None:
    path = write_run(tmp_path / "run.json", make_run(environment={"peft": version}))
    assert read_run_file(path).run.environment == {"peft": version}


def test_a_record_from_another_process_is_read_by_the_same_rules() -> None:
    record = msgspec.to_builtins(make_record(LORA))
    record["case"]["method"] = "../../x"
    with pytest.raises(msgspec.ValidationError, match=r"\$\.case\.method"):
        msgspec.json.decode(msgspec.json.encode(record), type=Record)


def test_a_wrong_name_is_explained_in_words() -> None:
    with pytest.raises(msgspec.ValidationError) as refused:
        msgspec.convert({**msgspec.to_builtins(MACHINE), "digest": "../x"}, type(MACHINE))
    assert "a digest: letters" in in_words(str(refused.value))
    assert "regex" not in in_words(str(refused.value))


def test_a_wrong_digest_of_a_ledger_is_explained_in_words(tmp_path: Path) -> None:
    path = write_run(tmp_path / "run.json")
    path.write_text(path.read_text().replace('"ledger": {}', '"ledger": "sha256:12"'))
    with pytest.raises(RunFileError, match="a SHA-256 digest: sha256: and 64 digits") as refused:
        read_run_file(path)
    assert "regex" not in str(refused.value)


@pytest.mark.parametrize("name", [*HOSTILE.values(), "conftest.py", "adapter.bin", "a.json\n"])
def test_an_adapter_has_only_files_that_nothing_runs(tmp_path: Path, name: str) -> None:
    """A pickle runs code when it is loaded, a module when it is imported."""
    stored = StoredAdapter(case=LORA, definition="d", output=[], files={name: "0"})
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(stored), type=StoredAdapter)

    def save(folder: Path) -> None:
        (folder / "adapter.bin").write_text("")

    keep_adapter(tmp_path, make_record(LORA).case, definition="d", output=[], save=save)
    assert not any(tmp_path.iterdir())
