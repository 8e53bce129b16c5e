"""The prediction of a process's memory, against processes; and the table of it in the docs."""

import re

import process_peak as tool
import pytest
from examples import ROOT

from peft_regress.project.devices import process_bytes, runtime_of

WITHIN = 0.1


def rows(header="| method | network | images |"):
    table = (ROOT / "docs" / "devices.md").read_text().partition(header)[2]
    return [
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.partition("\n\n")[0].splitlines()[2:]
    ]


def test_the_table_has_each_case_and_what_is_predicted_now():
    assert [f"{row[0]}/{row[1]}:{row[2]}" for row in rows()] == tool.square()
    assert len(rows()) >= 20
    for method, _, _, *sizes in rows():
        tensors, predicted, measured = (float(size.replace(",", "")) for size in sizes[:3])
        now = process_bytes(tensors * tool.MIB, runtime_of(method.partition("-r")[0])) / tool.MIB
        assert predicted == pytest.approx(now, abs=1.1)
        assert abs(measured / predicted - 1) <= WITHIN


def test_each_method_and_each_network_meets_each_shape():
    cases = [re.split("[/:]", case) for case in tool.square()]
    for part in (0, 1):
        assert len({(case[part], case[2]) for case in cases}) == 25


def test_the_docs_have_each_case_under_the_limit():
    cases = [case.strip("`") for case, _ in rows("| largest step in 768 MiB |")]
    assert [re.sub(r":\d+x", ":", case) for case in cases] == tool.limited()


def test_the_docs_compare_each_network_lean_and_plain():
    compared = rows("| 32x3x96x96 | lean / plain |")[:-1]  # the last is of times
    networks = ", ".join(names for names, _ in compared).split(", ")
    assert sorted(networks) == sorted(tool.LEAN_NETWORKS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "case",
    [
        "full/shufflenet_v2_x0_5:1x3x96x96",
        "head/efficientnet_lite0:42x3x160x160",
        pytest.param("lora-r4/mobilenet_v2:32x3x160x160", marks=pytest.mark.nightly),
    ],
)
def test_a_process_takes_what_is_predicted(case):
    peak = tool.peak_of(case)
    assert abs(peak.difference) <= WITHIN
    runtime = runtime_of(tool.adaptation(case).method)
    if peak.tensors > process_bytes(0, runtime):  # or the runtime hides an error in the tensors
        for wrong in (0.75, 1.25):
            predicted = process_bytes(wrong * peak.tensors, runtime)
            assert abs(peak.measured / predicted - 1) > WITHIN


def test_the_largest_batch_is_the_last_that_is_predicted_to_fit():
    limit = 512 * tool.MIB
    size = tool.largest_batch("head/mobilenet_v2:3x96x96", limit)
    log = tool.recorded("head/mobilenet_v2:3x96x96")
    rooms = (log.at_batch(one).room for one in (size, size + 1))
    assert [process_bytes(one) <= limit for one in rooms] == [True, False]
    assert tool.largest_batch("full/resnet18:3x96x96", 350 * tool.MIB) == 0


@pytest.mark.parametrize("parent", [".", "memory"])
def test_where_no_limit_can_be_set_the_folder_is_named(tmp_path, monkeypatch, capsys, parent):
    (tmp_path / parent).mkdir(exist_ok=True)
    monkeypatch.setattr(tool, "CGROUPS", tmp_path)
    with pytest.raises(SystemExit, match=r"^2$"):
        tool.main(["--limit", "400", "full/resnet18:3x96x96"])
    assert capsys.readouterr().err.startswith(f"{tmp_path / parent / 'process-peak-'}")
    assert not list((tmp_path / parent).glob("process-peak-*"))


@pytest.mark.nightly
def test_under_a_limit_the_largest_batch_lives_and_half_as_many_more_are_killed(capsys):
    try:
        code = tool.main(
            ["--limit", "512", "full/shufflenet_v2_x0_5:3x96x96", "head/efficientnet_lite0:3x96x96"]
        )
    except SystemExit:
        pytest.skip(capsys.readouterr().err)
    assert code == 0, capsys.readouterr().out
