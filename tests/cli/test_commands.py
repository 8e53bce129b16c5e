"""The commands `list`, `cost`, `accept`, `sources`: output, exit codes, messages."""

import json
import warnings
from pathlib import Path

import pytest
from builders import (
    FULL,
    LORA,
    keep_weights,
    make_record,
    make_run,
    read_runs,
    references_with_drift,
    write_entry,
    write_run,
)

from peft_regress.baselines.storage import baseline_files

RUN = "baselines/Linux-CPython-3.11-64bit/0003_peft-0.21.2.json"


@pytest.fixture
def run(command):
    return command


def test_list_prints_the_100_pairings_once(run):
    code, out, _ = run("list")
    assert code == 0
    ids = out.splitlines()
    assert len(ids) == len(set(ids)) == 4 * (2 * (3 + 3 * 3) + 1)
    assert {"shift/lora-r4/resnet18", "unseen/bn_head/mobilenet_v2"} <= {*ids}
    code, out, _ = run("list", "--format", "json", "--cases", "shift/*-r4/resnet18")
    assert code == 0
    assert {
        "id": "shift/lora-r4/resnet18",
        "task": "shift",
        "method": "lora",
        "architecture": "resnet18",
        "rank": 4,
    } in json.loads(out)
    assert len(json.loads(out)) == 4
    _, out, _ = run("list", "--format", "markdown", "--cases", "shift/head/resnet18")
    assert out.splitlines()[-1] == "| shift/head/resnet18 | shift | head | resnet18 |  |"


def test_cost_as_json_scales_with_the_batch_under_the_same_names(run):
    arguments = ("cost", "--architecture", "shufflenet_v2_x0_5", "--method", "lora", "--rank", "4")
    one, many = (
        json.loads(
            run(*arguments, "--resolution", "64", "--freeze-head", "--format", "json", *more)[1]
        )
        for more in ((), ("--batch", "32"))
    )
    assert set(one) == {"case", "settings", "metrics"}
    assert one["case"] == {"architecture": "shufflenet_v2_x0_5", "method": "lora", "rank": 4}
    assert many["settings"] == {**one["settings"], "batch": 32}
    assert one["metrics"]["forward_flops"]["unit"] == "flop"
    assert not any(name.endswith("_b32") for name in many["metrics"])
    values = [found["metrics"]["forward_flops"]["value"] for found in (one, many)]
    assert values[1] == 32 * values[0]


@pytest.mark.parametrize("output", ["text", "markdown"])
def test_cost_is_printed_for_people(run, output):
    code, out, _ = run(
        "cost", "--architecture", "resnet18", "--method", "head", "--resolution", "32",
        "--format", output,
    )  # fmt: skip
    assert code == 0
    assert "forward_flops" in out.replace("\\", "")
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


@pytest.mark.parametrize("method", ["head", "bn_head"])
def test_freezing_the_head_of_a_method_that_trains_no_more_leaves_nothing(run, method):
    pairing = ("--architecture", "resnet18", "--method", method)
    code, out, err = run("cost", *pairing, "--resolution", "32", "--freeze-head")
    assert (code, out) == (2, "")
    assert "nothing to train" in err


TOO_SMALL = "Expected more than 1 value per channel when training, got input size torch.Size("
NO_PRODUCT = (
    "The size of tensor a (3) must match the size of tensor b (7) at non-singleton dimension"
)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            "--method lora --architecture resnet18 --rank 4 --resolution 1 --bn train",
            f"ValueError: {TOO_SMALL}[1, 64, 1, 1])",
        ),
        ("--method lorafa --architecture resnet18 --rank 4", f"RuntimeError: {NO_PRODUCT} 1"),
    ],
)
def test_the_refusal_of_a_library_is_one_line(run, arguments, said, warnings_as_printed):
    code, out, err = run("cost", *arguments.split())
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert f" on resnet18 cannot be profiled with these settings: {said}. See docs/methods" in err


@pytest.fixture
def warnings_as_printed():
    """Warnings as they are outside of pytest, which makes errors of them."""
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        yield


@pytest.mark.parametrize(
    "arguments",
    [
        ("explain", "", "0001", "shift/head/resnet18"),
        ("explain", "0001", "", "shift/head/resnet18"),
        ("compare", "", RUN),
        ("compare", RUN, ""),
        ("history", ""),
        ("accept", "", "--reason", "why"),
    ],
)
def test_an_empty_name_is_wrong_use_and_not_the_working_directory(run, arguments, monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[2])
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert "the name is empty" in err


NO_RUN = "Make a run file with `pytest SUITE --regress-save PATH`"


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (("list", "--cases", "shfit/*"), 2, "shfit/*"),
        (("accept",), 2, "name the RUN to accept"),
        *(
            (("accept", "--renew", *words), 2, f"{words[0]} does not go with --renew")
            for words in (
                ("run",),
                ("--reason", "why"),
                ("--history",),
                ("--retire", "X"),
                ("--allow-errors", "X"),
            )
        ),
        (("accept", "run.json", "--reason", "why"), 3, "--regress-save"),
        (("compare", "old.json", "new.json"), 2, "--regress-save"),
        (("history", "run.json"), 2, NO_RUN),
        (("report", "run.json"), 2, NO_RUN),
        (("sources", "--check", "--baselines", "."), 3, "peft-regress sources"),
    ],
)
def test_wrong_use_and_what_is_absent_come_with_the_remedy(
    run, tmp_path, monkeypatch, *, arguments, code, message
):
    monkeypatch.chdir(tmp_path)
    found, out, err = run(*arguments)
    assert (found, out) == (code, "")
    assert message in err


def test_accept_renew_names_what_it_wrote(run, tmp_path):
    root = tmp_path / "b"
    write_entry(root, 1)
    path = next(root.glob("*/0001_*.json")).with_name("current.txt")
    path.unlink()
    assert run("accept", "--renew", "--baselines", str(root))[:2] == (0, f"wrote {path}\n")
    assert run("accept", "--renew", "--baselines", str(root))[:2] == (0, "")
    assert run("accept", "--renew", "--baselines", str(tmp_path / "none"))[0] == 3


def test_accept_retires_removed_cases_and_names_them(run, tmp_path):
    entry = write_entry(tmp_path / "b", 1, make_record(LORA), make_record(FULL))
    command = ("accept", str(write_run(tmp_path / "run.json")), "--baselines", str(tmp_path / "b"))
    for pattern in ("no/such/case", LORA):
        code, _, err = run(*command, "--reason", "r", "--retire", FULL, "--retire", pattern)
        assert (code, pattern in err) == (2, True)
    assert baseline_files(tmp_path / "b") == [entry]
    code, out, _ = run(*command, "--reason", "full is gone", "--retire", "*/full/*")
    assert code == 0
    assert out.endswith(f"1 retired: {FULL}\n")
    assert references_with_drift(read_runs(tmp_path / "b")).keys() == {LORA}


def keep_head(tmp_path):
    """Write a run of one case that kept what it ships; return its name."""
    record = make_record("shift/head/resnet18")
    path = write_run(tmp_path / "run.json", make_run(record))
    keep_weights(path, record)
    return str(path)


def test_accept_stores_the_adapters_of_a_baseline_and_says_so(run, tmp_path):
    path, root = keep_head(tmp_path), tmp_path / "b"
    command = ("accept", path, "--reason", "r", "--baselines", str(root))
    weights = tmp_path / "run.adapters" / "shift--head--resnet18" / "model.safetensors"
    weights.write_bytes(b"y")
    code, _, err = run(*command)
    assert (code, "model.safetensors: expected sha256" in err) == (2, True)
    assert not baseline_files(root)
    weights.write_bytes(b"x")
    code, out, _ = run(*command, "--history")
    assert (code, "adapters" in out, (root / "adapters").exists()) == (0, False, False)
    code, out, _ = run(*command)
    assert code == 0
    assert out.endswith("\nadapters stored: shift/head/resnet18\n")
    (stored,) = (root / "adapters").glob("*/model.safetensors")
    assert stored.read_bytes() == b"x"
    write_run(tmp_path / "other.json")
    _, out, _ = run("accept", tmp_path / "other.json", *command[2:])
    assert out.endswith(f"no adapters stored: there are none beside {tmp_path / 'other.json'}\n")


def test_the_stored_sources_are_the_recorded_bytes(run):
    root = Path(__file__).parents[2] / "baselines"
    code, out, err = run("sources", "--check", "--baselines", str(root))
    assert code == 0, err
    assert "4 sources" in out


def test_every_command_that_takes_a_run_takes_an_entry(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_entry(tmp_path / "baselines", 1, make_record(LORA))
    assert run("compare", "0001", "0001")[0] == 0
    assert run("explain", "0001", "0001", LORA)[0] == 0
    code, out, _ = run("accept", "0001", "--reason", "again")
    assert (code, out.splitlines()[0].endswith("0002_peft-0.18.1.json")) == (0, True)
    assert run("history", "0001")[0] == 0
