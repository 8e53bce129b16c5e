"""The commands `list`, `accept`, `sources`: output, exit codes, messages."""

import json

from builders import LORA, make_record


def test_list_prints_the_102_pairings_once(command):
    code, out, _ = command("list")
    assert code == 0
    ids = out.splitlines()
    assert len(ids) == len(set(ids)) == 4 * (2 * (3 + 3 * 3) + 1) + 2
    assert {"shift/lora-r4/resnet18", "unseen/bn_head/mobilenet_v2"} <= {*ids}
    code, out, _ = command("list", "--format", "json", "--cases", "shift/*-r4/resnet18")
    assert code == 0
    assert {
        "id": "shift/lora-r4/resnet18",
        "task": "shift",
        "method": "lora",
        "architecture": "resnet18",
        "rank": 4,
    } in json.loads(out)
    assert len(json.loads(out)) == 5
    _, out, _ = command("list", "--format", "markdown", "--cases", "shift/head/resnet18")
    assert out.splitlines()[-1] == "| shift/head/resnet18 | shift | head | resnet18 |  |"


def test_accept_renew_names_what_it_wrote(project):
    path = project.store(1).with_name("current.txt").relative_to(project.folder)
    path.unlink()
    assert project.run("accept", "--renew") == (0, f"wrote {path}\n", "")
    assert project.run("accept", "--renew") == (0, "", "")
    assert project.run("accept", "--renew", "--baselines", "none").code == 3


def test_every_command_that_takes_a_run_takes_an_entry(project):
    project.store(1, make_record(LORA))
    assert project.run("compare", "0001", "0001").code == 0
    assert project.run("explain", "0001", "0001", LORA).code == 0
    code, out, _ = project.run("accept", "0001", "--reason", "again")
    assert (code, out.splitlines()[0].endswith("0002_peft-0.18.1.json")) == (0, True)
    assert project.run("history", "0001").code == 0
