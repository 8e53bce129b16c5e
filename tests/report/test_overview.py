"""The newest numbers in the terminal, and the points that no other beats."""

import json

from builders import FULL, GALORE, LORA, make_record, make_run, write_entry, write_run
from hypothesis import given
from hypothesis import strategies as st

from peft_regress.report.results import pareto_front


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(1, 9)), max_size=7))
def test_no_other_point_beats_one_on_the_front(points):
    """Against the definition: no other gains as much and is as cheap, and better in one."""

    def is_beaten(one):
        return any(a >= one[0] and b <= one[1] and (a, b) != one for a, b in points)

    front = pareto_front(points, cost=lambda one: one[1], gain=lambda one: one[0])
    assert sorted(front) == sorted(one for one in points if not is_beaten(one))
    costs = [cost for _, cost in front]
    assert costs == sorted(costs)


def storage(tmp_path):
    root = tmp_path / "baselines"
    write_entry(root, 1, make_record(LORA), make_record(FULL))
    return root


def test_the_command_shows_the_newest_baseline_and_a_run_that_is_named(tmp_path, command):
    root = storage(tmp_path)
    code, out, _ = command("report", "--baselines", root)
    assert code == 0
    assert out.startswith("2 cases, from 0001_")
    assert LORA in out
    run = write_run(tmp_path / "run.json", make_run(make_record(GALORE), make_record(FULL)))
    code, out, _ = command("report", run, "--baselines", root, "--format", "markdown")
    assert code == 0
    assert out.startswith(f"3 cases, from {str(run).replace('_', chr(92) + '_')}, 0001")
    code, out, _ = command("report", "--baselines", root, "--cases", "*/full/*")
    assert out.startswith("1 case, from 0001_")
    code, out, _ = command("report", "--baselines", root, "--format", "json")
    assert [case["id"] for case in json.loads(out)["cases"]] == [FULL, LORA]


def test_absent_things_are_exit_3(tmp_path, command):
    code, _, err = command("report", "--baselines", tmp_path / "none")
    assert (code, "no entry there, and no run was named" in err) == (3, True)
    root = storage(tmp_path)
    code, _, err = command("report", "--baselines", root, "--cases", "nothing")
    assert (code, "matches none of the 2 cases" in err) == (3, True)


def test_no_page_is_written_over_a_run_that_it_shows(tmp_path, command):
    root = storage(tmp_path)
    [stored] = root.glob("*/*.json")
    run = write_run(tmp_path / "run.json")
    shard = write_run(tmp_path / "shards" / "a.json", make_run(make_record(GALORE)))
    before = {path: path.read_bytes() for path in (stored, run, shard)}
    for path in before:
        found = command("report", run, shard.parent, "--baselines", root, "--html", path)
        assert (found[0], found[1]) == (2, "")
        why = "lies in the baseline storage" if path == stored else "is the run that is read"
        assert f"--html {path}: {why}" in found[2]
    assert {path: path.read_bytes() for path in before} == before
    page = shard.parent / "page.html"
    code, out, _ = command("report", shard.parent, "--baselines", "none", "--html", page)
    assert (code, out.split(", ")[:2]) == (0, [f"wrote {page}: 1 case", "1 entry"])
