"""In a project with settings, each printed command works as it is."""

import html
import json
import re
import shlex
import sys

import pytest
from builders import VALUES, make_record, make_run, write_entry, write_run
from command_words import check_command
from git_shell import run_in

CASE = "toy/lora-r4/net"
PROJECT = {
    "pyproject.toml": '[tool.peft_regress]\ncases = ["gates.cases:GATES"]\nbaselines = "data"\n',
    "gates/__init__.py": "",
    "gates/cases.py": f"from peft_regress import Script\nGATES = [Script('{CASE}', 'train.py')]\n",
    "gates/test_gates.py": """import pytest
from peft_regress import case_params

@pytest.mark.parametrize("case", case_params())
def test_gate(case, peft_regress):
    pass
""",
}


@pytest.mark.parametrize(
    ("here", "storage", "typed", "suite"),
    [
        pytest.param(".", "data", [], "gates", marks=pytest.mark.nightly),
        (".", "elsewhere", ["--baselines", "elsewhere"], "gates"),
        ("gates", "data", [], "."),
        ("data", "data", [], "PROJECT/gates"),
    ],
)
def test_the_commands_of_page_and_verdict_name_suite_and_storage(  # noqa: PLR0917
    project, command, monkeypatch, here, storage, typed, suite
):
    folder = project.write(PROJECT).folder
    old, new = (make_record(CASE, {**VALUES, "forward_flops": flops}) for flops in (1, 2))
    for number in (1, 2):
        write_entry(folder / storage, number, old)
    run = write_run(folder / "run.json", make_run(new))
    monkeypatch.chdir(folder / here)
    assert command("report", run, "--html", folder / "page.html", *typed)[0] == 0
    page = html.unescape((folder / "page.html").read_text())
    printed = {one for one in re.findall(r"<code>([^<]*)</code>", page) if " " in one}
    suite = suite.replace("PROJECT", str(folder))
    judging = ["--regress-baseline"] if typed else []
    for way in ("text", "markdown"):
        out = command("compare", folder / storage, run, "--format", way, *typed)[1]
        joined = out.replace("\\\n", " ")
        printed |= set(re.findall(r"(?:pytest|peft-regress) (?!-->)[^`\n]*", joined))
    assert {" ".join(shlex.split(one)[:2]) for one in printed} == {
        *("peft-regress accept", "peft-regress compare", "peft-regress explain"),
        f"pytest {suite}",
    }
    for words in map(shlex.split, sorted(printed)):
        if words[0] == "pytest":
            assert [words[1], *words[2:-2:2]] == [suite, *judging]
            assert all((folder / storage).samefile(one) for one in words[3:-2])
            found = run_in(".", f'"{sys.executable}" -m {shlex.join(words)} --collect-only -q')
            assert f"[{CASE}]" in found
        else:
            # `compare` names the storage as OLD.
            named = words[2] if words[1] == "compare" else check_command(words[1:])["baselines"]
            assert (folder / storage).samefile(named)
            assert command(*words[1:])[0] == 0, "the run was accepted first"
    data = json.loads(command("report", "--format", "json", *typed)[1])
    assert data["suite"] == " ".join([suite, *judging, *typed[1:]])
    assert data["storage"] == "".join(f" {word}" for word in typed)
