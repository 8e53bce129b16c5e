"""Names in files of others end in paths, branches, commands and scripts: what they may be."""

import msgspec
import pytest
from builders import LORA, make_record, make_run, write_run

from peft_regress.cases import Case, is_name
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import canonical_digest

HOSTILE = [
    *("../../x", "a..b", "/etc/x", "a/b", "a\\b", ".git", "-x", "~root", "$(id)", "`id`", "a;id"),
    *("a'b", 'a"b', "a*", "a\nb", "a\n", "a b", "", "a\0b", "a\x1b[31m", "a^", "a:b", "a#b"),
    *("аb", "a\u202eb", "a" * 129),  # noqa: RUF001  (Cyrillic, another direction, too long)
]


def _part(name):
    def change(ours, text):
        record = ours["cases"].pop(LORA)
        record["case"] |= {name: text}
        case = record["case"]
        ours["cases"][f"{case['task']}/{case['method']}-r4/{case['architecture']}"] = record

    return change


def _accepted(text):
    accepted = {"reason": "r", "date": "2026-01-02T03:04:05+00:00", "role": "baseline"}
    return {**accepted, "entry": "Linux/0001_x", "retired": [f"shift/{text}/resnet18"]}


PLACES = {
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


@pytest.mark.parametrize("place", PLACES.values(), ids=list(PLACES))
def test_a_run_file_with_a_hostile_name_is_refused_in_a_line_that_says_where(tmp_path, place):
    path = write_run(tmp_path / "run.json", make_run(make_record(LORA)))
    content = path.read_bytes()
    for text in HOSTILE:
        document = msgspec.json.decode(content)
        ours = document["peft_regress"]
        place(ours, text)
        # As whoever forges one would.
        del ours["content_digest"]
        ours["content_digest"] = canonical_digest(ours)
        path.write_bytes(msgspec.json.encode(document))
        # In words, not by the pattern.
        with pytest.raises(RunFileError, match=r"Expected a [^\\^]* - at `.*\$") as refused:
            read_run_file(path)
        assert str(refused.value).isprintable()


def test_no_case_has_a_hostile_name_or_rank():
    for text in HOSTILE:
        assert not is_name(text)
        with pytest.raises(InputError, match="is not a case id"):
            Case.parse(f"shift/{text}/resnet18")
    for rank in (0, -1, 10**9):
        case = {"task": "shift", "method": "lora", "architecture": "resnet18", "rank": rank}
        with pytest.raises(msgspec.ValidationError, match="rank"):
            msgspec.convert(case, Case)


def test_a_method_that_only_looks_ranked_is_another_case(tmp_path):
    """Both give the id `shift/lora-r4/resnet18`; what is looked up by method differs."""
    run = make_run(make_record(LORA))
    case = Case(task="shift", method="lora-r4", architecture="resnet18")
    forged = msgspec.structs.replace(run.cases[LORA], case=case)
    path = write_run(tmp_path / "run.json", msgspec.structs.replace(run, cases={LORA: forged}))
    with pytest.raises(RunFileError, match="has the record of"):
        read_run_file(path)


@pytest.mark.parametrize("version", ["1.0", "2.13.0+cpu", "1!2.0", "3.13.0rc1+", "0.0.0-dev_1"])
def test_versions_as_packages_write_them_are_read(tmp_path, version):
    path = write_run(tmp_path / "run.json", make_run(environment={"peft": version}))
    assert read_run_file(path).run.environment == {"peft": version}
