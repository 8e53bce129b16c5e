"""The command line: output, exit codes, messages."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from builders import FULL, LORA, make_record, make_run, write_entry, write_run
from screen import Terminal

from peft_regress import registry
from peft_regress.baselines.adapters import adapters_of_run, keep_adapter
from peft_regress.baselines.entries import baseline_files, read_runs
from peft_regress.baselines.references import newest_references
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.cli.main import main
from peft_regress.runs.schema import Failure

RUN = "baselines/Linux-CPython-3.11-64bit/0003_peft-0.21.2.json"


@pytest.fixture
def run(capsys):
    """Call the command in this process and return (exit code, stdout, stderr)."""

    def call(*arguments: str) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main(list(arguments))
        captured = capsys.readouterr()
        return int(stopped.value.code or 0), captured.out, captured.err

    return call


def test_list_prints_the_96_pairings(run):
    code, out, _ = run("list")
    assert code == 0
    assert len(out.splitlines()) == 96
    assert "shift/lora-r4/resnet18" in out.splitlines()
    assert "unseen/bn_head/mobilenet_v2" in out.splitlines()


def test_list_as_json_has_the_contract_s_keys(run):
    code, out, _ = run("list", "--format", "json", "--cases", "shift/*-r4/resnet18")
    assert code == 0
    assert {
        "id": "shift/lora-r4/resnet18",
        "task": "shift",
        "method": "lora",
        "architecture": "resnet18",
        "rank": 4,
    } in json.loads(out)
    assert len(json.loads(out)) == 3


def test_list_as_markdown_is_a_table(run):
    _, out, _ = run("list", "--format", "markdown", "--cases", "shift/head/resnet18")
    assert out.splitlines()[-1] == "| shift/head/resnet18 | shift | head | resnet18 |  |"


def test_a_pattern_that_fits_no_case_is_wrong_use(run):
    code, out, err = run("list", "--cases", "shfit/*")
    assert (code, out) == (2, "")
    assert "shfit/*" in err


def test_cost_as_json_is_case_settings_and_metrics(run):
    code, out, _ = run(
        "cost", "--architecture", "shufflenet_v2_x0_5", "--method", "lora", "--rank", "4",
        "--batch", "2", "--resolution", "64", "--freeze-head", "--format", "json",
    )  # fmt: skip
    assert code == 0
    cost = json.loads(out)
    assert set(cost) == {"case", "settings", "metrics"}
    assert cost["case"] == {"architecture": "shufflenet_v2_x0_5", "method": "lora", "rank": 4}
    assert cost["settings"]["batch"] == 2
    assert cost["metrics"]["forward_flops"]["unit"] == "flop"
    assert not any(name.endswith("_b32") for name in cost["metrics"])


def test_cost_of_lora_on_resnet18_scales_with_the_batch_under_the_same_names(run):
    arguments = ("cost", "--architecture", "resnet18", "--method", "head", "--format", "json")
    one = json.loads(run(*arguments, "--resolution", "32")[1])["metrics"]
    many = json.loads(run(*arguments, "--resolution", "32", "--batch", "32")[1])["metrics"]
    assert many["forward_flops"]["value"] == 32 * one["forward_flops"]["value"]


@pytest.mark.parametrize("output", ["text", "markdown"])
def test_cost_is_printed_for_people(run, output):
    code, out, _ = run(
        "cost", "--architecture", "resnet18", "--method", "head", "--resolution", "32",
        "--format", output,
    )  # fmt: skip
    assert code == 0
    assert "forward_flops" in out
    assert "5130" in out.replace(",", "")  # the head's parameters


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--architecture", "resnet8", "--method", "head"), "Did you mean 'resnet18'"),
        (("--architecture", "resnet18", "--method", "lroa"), "Did you mean 'lora'"),
        (("--architecture", "resnet18", "--method", "lora"), "needs a rank"),
        (("--architecture", "resnet18", "--method", "head", "--rank", "4"), "has no rank"),
        (("--architecture", "resnet18", "--method", "lora", "--rank", "0"), "1<=x"),
        (("--architecture", "resnet18", "--method", "lora", "--rank", "x"), "not a valid integer"),
        (("--architecture", "resnet18", "--method", "head", "--batch", "0"), "1<=x"),
        (("--architecture", "resnet18", "--method", "head", "--loss", "mse"), "sum"),
        (("--method", "head"), "--architecture"),
    ],
)
def test_wrong_use_of_cost_is_exit_2_with_a_message(run, arguments, message):
    code, out, err = run("cost", *arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_a_resolution_too_small_for_the_network_is_a_message(run):
    code, _, err = run(
        "cost", "--architecture", "tiny_pool", "--method", "head", "--resolution", "1"
    )
    assert code == 2
    assert "unknown architecture" in err


@pytest.mark.parametrize("method", ["head", "bn_head"])
def test_freezing_the_head_of_a_method_that_trains_no_more_names_the_option(run, method):
    pairing = ("--architecture", "resnet18", "--method", method)
    code, out, err = run("cost", *pairing, "--resolution", "32", "--freeze-head")
    assert (code, out) == (2, "")
    assert f"--method {method} --architecture resnet18 --freeze-head leaves nothing" in err
    assert "Leave --freeze-head out" in err
    assert "requires_grad" not in err


TOO_SMALL = "Expected more than 1 value per channel when training, got input size torch.Size("
NO_PRODUCT = (
    "The size of tensor a (3) must match the size of tensor b (7) at non-singleton dimension"
)


@pytest.mark.parametrize(
    ("arguments", "said", "remedy"),
    [
        (
            "--method lora --architecture resnet18 --rank 4 --resolution 1 --bn train",
            f"ValueError: {TOO_SMALL}[1, 64, 1, 1])",
            "Try it without --resolution 1 --bn train, or see docs/methods.md for",
        ),
        (
            "--method lorafa --architecture resnet18 --rank 4",
            f"RuntimeError: {NO_PRODUCT} 1",
            "See docs/methods.md for",
        ),
    ],
    ids=["by its settings", "by the library"],
)
def test_what_a_library_refuses_is_one_line_with_the_command_as_typed(arguments, said, remedy):
    """In a process of its own, so that what a library warns of is printed as it would be."""
    done = subprocess.run(
        [sys.executable, "-m", "peft_regress", "cost", *arguments.split()],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (2, "")
    message = f"{arguments} cannot be profiled: {said}. {remedy} where each method works."
    assert done.stderr == f"error: {message}\n"


def test_what_a_library_warns_of_is_a_line_without_its_path():
    done = subprocess.run(
        [
            *(sys.executable, "-m", "peft_regress", "cost", "--resolution", "32"),
            *("--architecture", "resnet18", "--method", "hra", "--rank", "3"),
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0
    assert done.stdout.startswith("resnet18, hra r=3")
    (line,) = done.stderr.splitlines()
    assert line.startswith("warning: ")
    assert "site-packages" not in line


def test_compare_of_a_missing_file_is_exit_2_with_the_command(run, tmp_path):
    code, _, err = run("compare", str(tmp_path / "old.json"), str(tmp_path / "new.json"))
    assert code == 2
    assert "--regress-save" in err


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "", "0001", "shift/head/resnet18"),
        ("explain", "0001", "", "shift/head/resnet18"),
        ("compare", "", RUN),
        ("compare", RUN, ""),
        ("history", ""),
        ("accept", "", "--reason", "why"),
        ("sources", "--check", "--baselines", ""),
    ],
)
def test_an_empty_name_is_wrong_use_and_not_the_working_directory(run, arguments, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "the name is empty" in err


def test_accept_needs_a_reason(run, tmp_path):
    code, _, err = run("accept", str(tmp_path / "run.json"))
    assert code == 2
    assert "--reason" in err


def test_accepting_a_run_that_is_not_there_is_exit_3_with_the_command(run, tmp_path):
    code, _, err = run("accept", str(tmp_path / "run.json"), "--reason", "why")
    assert code == 3
    assert "tox run -e bench" in err


def test_accept_retires_what_is_gone_and_says_so(run, tmp_path):
    write_entry(tmp_path / "b", 1, make_record(LORA), make_record(FULL))
    command = ("accept", str(write_run(tmp_path / "run.json")), "--baselines", str(tmp_path / "b"))
    code, out, _ = run(*command, "--reason", "full is gone", "--retire", "*/full/*")
    assert code == 0
    assert out.endswith(f"1 retired: {FULL}\n")
    assert newest_references(read_runs(tmp_path / "b")).keys() == {LORA}


def keep_head(tmp_path: Path) -> str:
    """Write a run of one case that kept what it ships; return its name."""
    record = make_record("shift/head/resnet18")
    path = write_run(tmp_path / "run.json", make_run(record))
    keep_adapter(
        adapters_of_run(path),
        record.case,
        definition=record.definition,
        output=[[0.5]],
        save=lambda folder: (folder / "model.safetensors").write_bytes(b"x") and None,
    )
    return str(path)


def test_accept_stores_what_the_run_kept_and_says_so(run, tmp_path):
    command = ("accept", keep_head(tmp_path), "--reason", "r", "--baselines", str(tmp_path / "b"))
    code, out, _ = run(*command)
    assert code == 0
    assert out.endswith("\nadapters stored: shift/head/resnet18\n")
    assert (tmp_path / "b" / "adapters" / "head" / "model.safetensors").read_bytes() == b"x"


def test_an_entry_for_the_history_alone_stores_no_adapter(run, tmp_path):
    command = ("accept", keep_head(tmp_path), "--reason", "r", "--baselines", str(tmp_path / "b"))
    code, out, _ = run(*command, "--history")
    assert code == 0
    assert "adapters" not in out
    assert not (tmp_path / "b" / "adapters").exists()


def test_accept_says_where_nothing_was_kept(run, tmp_path):
    path = str(write_run(tmp_path / "run.json"))
    _, out, _ = run("accept", path, "--reason", "r", "--baselines", str(tmp_path / "b"))
    assert out.endswith(f"no adapters stored: none was kept beside {path}\n")


def test_an_altered_adapter_is_wrong_use_and_nothing_is_accepted(run, tmp_path):
    path = keep_head(tmp_path)
    (tmp_path / "run.adapters" / "shift--head--resnet18" / "model.safetensors").write_bytes(b"y")
    code, _, err = run("accept", path, "--reason", "r", "--baselines", str(tmp_path / "b"))
    assert code == 2
    assert "model.safetensors: expected sha256" in err
    assert not (tmp_path / "b").exists()


@pytest.mark.parametrize("pattern", ["no/such/case", LORA])
def test_what_cannot_be_retired_is_wrong_use_and_stores_nothing(run, tmp_path, pattern):
    entry = write_entry(tmp_path / "b", 1, make_record(LORA), make_record(FULL))
    command = ("accept", str(write_run(tmp_path / "run.json")), "--baselines", str(tmp_path / "b"))
    code, _, err = run(*command, "--reason", "r", "--retire", FULL, "--retire", pattern)
    assert code == 2
    assert pattern in err
    assert baseline_files(tmp_path / "b") == [entry]


def test_sources_check_of_an_empty_folder_is_exit_3_with_the_command(run, tmp_path):
    code, _, err = run("sources", "--check", "--baselines", str(tmp_path))
    assert code == 3
    assert "peft-regress sources" in err


def test_the_stored_sources_are_the_recorded_bytes(run):
    root = Path(__file__).parents[2] / "baselines"
    code, out, err = run("sources", "--check", "--baselines", str(root))
    assert code == 0, err
    assert "4 sources" in out


def test_help_names_every_command(run):
    code, out, _ = run("--help")
    assert code == 0
    for command in (
        "list",
        "cost",
        "compare",
        "explain",
        "history",
        "accept",
        "sources",
        "time",
        "export",
    ):
        assert command in out


def test_an_unknown_command_is_wrong_use(run):
    assert run("frobnicate")[0] == 2


def test_listing_imports_no_torch():
    code = (
        "import sys\n"
        "from peft_regress.cli.main import main\n"
        "try:\n    main(['list'])\n"
        "except SystemExit:\n    pass\n"
        "heavy = {'torch', 'peft', 'numpy', 'scipy', 'sklearn', 'pytest'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("list",), id="many-writes"),
        pytest.param(("list", "--format", "json"), id="more-than-a-pipe-holds"),
        pytest.param(("list", "--cases", "shift/head/resnet18"), id="one-line"),
        pytest.param(("--help",), id="help"),
        pytest.param(("compare", RUN, RUN), id="compare"),
        pytest.param(
            ("explain", RUN, RUN, "shift/hra-r4/resnet18", "--format", "json"), id="explain"
        ),
        pytest.param(
            ("cost", "--architecture", "resnet18", "--method", "head", "--resolution", "32"),
            id="cost",
        ),
    ],
)
@pytest.mark.parametrize("errors", ["kept", "closed too"])
def test_a_closed_pipe_is_no_traceback_and_no_verdict(arguments, errors):
    code, said = exit_with_a_closed_pipe(*arguments, errors_too=errors == "closed too")
    assert (code, said) == (2, "")


def test_an_error_that_nobody_reads_is_no_verdict():
    assert exit_with_a_closed_pipe("list", "--cases", "shfit/*", errors_too=True) == (2, "")


def exit_with_a_closed_pipe(*arguments, errors_too):
    """Run the command with its standard output, and its errors, to a pipe that nobody reads."""
    reader, writer = os.pipe()
    os.close(reader)
    try:
        done = subprocess.run(
            [sys.executable, "-m", "peft_regress", *arguments],
            stdout=writer,
            stderr=writer if errors_too else subprocess.PIPE,
            cwd=Path(__file__).parents[2],
            check=False,
        )
    finally:
        os.close(writer)
    return done.returncode, (done.stderr or b"").decode()


def command(*arguments, **how):
    """Run the command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "peft_regress", *arguments],
        cwd=Path(__file__).parents[2],
        check=False,
        **how,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(("list",), id="list"),
        pytest.param(("--help",), id="help"),
        pytest.param(("--version",), id="version"),
        pytest.param(("compare", RUN, RUN), id="compare"),
        pytest.param(("compare", RUN, RUN, "--format", "json"), id="compare-json"),
        pytest.param(("compare", RUN, RUN, "--format", "markdown"), id="compare-markdown"),
        pytest.param(("explain", RUN, RUN, "shift/hra-r4/resnet18"), id="explain"),
        pytest.param(("history", "--case", "shift/full/resnet18"), id="history"),
        pytest.param(("sources", "--check"), id="sources"),
        pytest.param(("upgrade", "--clean"), id="upgrade"),
    ],
)
def test_a_full_disk_is_one_message_and_no_verdict(arguments, tmp_path):
    kept = {**os.environ, "XDG_CACHE_HOME": str(tmp_path)}
    with Path("/dev/full").open("w") as full:
        done = command(*arguments, stdout=full, stderr=subprocess.PIPE, text=True, env=kept)
        assert (done.returncode, done.stderr) == (2, "error: output: No space left on device\n")
        assert command(*arguments, stdout=full, stderr=full, env=kept).returncode == 2


def without(stream, *arguments):
    """Run the command in a process that has no such stream at all."""
    closing = ("sh", "-c", f'exec "$@" {stream}>&-', "sh", sys.executable, "-m", "peft_regress")
    folder = Path(__file__).parents[2]
    done = subprocess.run([*closing, *arguments], cwd=folder, capture_output=True, check=False)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.parametrize(
    "arguments", [("compare", RUN, RUN), ("export", RUN, "--to", "csv"), ("list",)]
)
def test_without_an_output_there_is_one_message_and_no_verdict(arguments):
    assert without(1, *arguments) == (2, "", "error: output: closed\n")


def test_without_a_place_for_messages_the_output_holds_none():
    target = ("--to", "github-action-benchmark", "--direction", "bigger")
    code, out, _ = without(2, "export", RUN, *target)
    assert code == 0
    assert json.loads(out)
    assert without(2, "compare", RUN, "no such.json")[:2] == (2, "")


@pytest.mark.parametrize("arguments", [("compare", RUN, "no such.json"), ("compare", "--nothing")])
def test_an_error_that_finds_no_room_is_no_verdict(arguments):
    with Path("/dev/full").open("w") as full:
        assert command(*arguments, stdout=subprocess.DEVNULL, stderr=full).returncode == 2


def test_progress_that_finds_no_room_does_not_end_the_work(monkeypatch):
    lines = "from peft_regress.report.terminal import print_progress as show\n"
    lines += "show('one')\nshow('two')\nprint('done')"
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-c", lines], stdout=subprocess.PIPE, stderr=full, check=False
        )
    assert (done.returncode, done.stdout) == (0, b"done\n")


@pytest.mark.parametrize(("columns", "no_color"), [(40, ""), (100, ""), (40, "1")])
def test_a_terminal_gets_its_width_and_colour_unless_it_wants_none(tmp_path, columns, no_color):
    for name, flops in (("old.json", 4 * 10**9), ("new.json", 6 * 10**9)):
        write_run(tmp_path / name, make_run(make_record(LORA, {"forward_flops": flops})))
    terminal = Terminal(columns=columns)
    command = (sys.executable, "-m", "peft_regress", "compare", "old.json", "new.json")
    assert terminal.run(*command, cwd=tmp_path, environment={"NO_COLOR": no_color}) == 1
    assert ("\x1b[1;31mREGRESSED (1 regressed)\x1b[0m" in terminal.output) == (not no_color)
    assert ("\x1b" in terminal.output) == (not no_color)
    shown = next(line for line in terminal.screen() if LORA in line)
    assert shown.split()[1:4] == ([] if columns == 40 else ["4.000", "GFLOP", "6.000"])


@pytest.fixture
def letters(tmp_path):
    """Two run files whose names and contents are not ASCII; the second fails."""
    error = Failure(type="Fehler", message="gr\u00f6\u00dfer wie \u6f22")
    old = write_run(tmp_path / "\u00e9 old.json", make_run(make_record()))
    new = write_run(tmp_path / "\u6f22.json", make_run(make_record(status="error", error=error)))
    return str(old), str(new)


@pytest.mark.parametrize(
    ("options", "environment", "shown"),
    [
        ((), {"PYTHONIOENCODING": "utf-8"}, "gr\u00f6\u00dfer wie \u6f22"),
        ((), {"PYTHONIOENCODING": "latin-1"}, "gr\u00f6\u00dfer wie \\u6f22"),
        ((), {"PYTHONIOENCODING": "ascii"}, "gr\\xf6\\xdfer wie \\u6f22"),
        (("--ascii",), {"PYTHONIOENCODING": "utf-8"}, "gr\\xf6\\xdfer wie \\u6f22"),
    ],
)
def test_letters_that_do_not_fit_are_escapes_and_never_a_traceback(
    letters, options, environment, shown
):
    encoding = environment["PYTHONIOENCODING"]
    how = {"capture_output": True, "encoding": encoding, "env": {**os.environ, **environment}}
    for form in ((), ("--format", "markdown"), ("--format", "json")):
        done = command(*options, "compare", *form, *letters, **how)
        assert (done.returncode, done.stderr) == (1, "")
        assert done.stdout.isascii() or "--ascii" not in options
    done = command(*options, "compare", *letters, **how)
    assert f"Fehler: {shown}" in done.stdout
    assert "COLUMNS" in os.environ or max(map(len, done.stdout.splitlines())) <= 100
    done = command(*options, "compare", letters[0], "\u6f22.json", **how)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.isascii() or "--ascii" not in options


def test_the_matrix_is_every_pairing_once():
    ids = [case.id for case in matrix_cases()]
    assert len(ids) == len(set(ids)) == 2 * 4 * (3 + 3 * 3)
    assert {c.architecture for c in matrix_cases()} == {
        "resnet18",
        "mobilenet_v2",
        "mobilenet_v3_small",
        "shufflenet_v2_x0_5",
    }
    assert registry.names("task")
