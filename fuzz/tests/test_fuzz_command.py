"""`peft-fuzz search` and `replay`: corpus, findings on disk, reports, exit codes, bad input."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from contextlib import nullcontext
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest
from fuzz_examples import PACKAGES, example, failure, finding, layer

from peft_fuzz.acts import Copy, Fill
from peft_fuzz.cli import main
from peft_fuzz.cli import search as search_command
from peft_fuzz.example import Outcome
from peft_fuzz.search import cluster_search, parallel_search
from peft_fuzz.search import fuzz as fuzz_module
from peft_fuzz.search import ranges as ranges_module
from peft_fuzz.search import replay as replay_module
from peft_fuzz.search.corpus import accept_findings
from peft_fuzz.search.findings import read_finding, write_finding
from peft_fuzz.search.messages import Begun, Counts, Found, Sought
from peft_regress.errors import InputError
from peft_regress.overlay.pip import PipError
from peft_regress.workers.cluster import ClusterLostError
from peft_regress.workers.process import RequestRefusedError

ONE = finding()
AS_JSON = msgspec.json.encode(ONE.example)
OTHER = finding(example(layer(bias=False)))


class Workers:
    """Stands in for worker processes; `answers` are what the searches bring, in this order."""

    def __init__(self, monkeypatch) -> None:
        self.answers = []
        self.outcomes = {}
        self.absent = ()
        self.requests = []
        self.on_seek = lambda: None
        self.release = dict(PACKAGES)
        self.now = 0.0
        """Only searches take time."""
        clock = SimpleNamespace(monotonic=lambda: self.now)
        monkeypatch.setattr(fuzz_module, "time", clock)
        monkeypatch.setattr(parallel_search, "time", clock)
        monkeypatch.setattr(parallel_search, "LifeWorker", self.make)
        monkeypatch.setattr(replay_module, "LifeWorker", self.make)

    @contextlib.contextmanager
    def make(self, *_, **__):
        stopped = threading.Event()
        yield SimpleNamespace(
            begin=self.begin, live=self.live, seek=self.seek, stop=stopped.set,
            is_stopped=stopped.is_set,
        )  # fmt: skip

    def begin(self):
        return Begun(absent=self.absent, packages=self.release)

    def live(self, one):
        return self.outcomes.get(msgspec.json.encode(one), Outcome())

    def seek(self, request):
        self.requests.append(request)
        self.on_seek()
        time.sleep(0.001)
        self.now += 0.03
        counts = Counts(lives={"lora": 3})
        if not self.answers:
            return Sought(counts=counts)
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        found = Found(cause=answer.cause, example=answer.example, failure=answer.failure)
        return Sought(counts=counts, found=found)


@pytest.fixture
def workers(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(parallel_search, "SLICE_SECONDS", 0.05)
    return Workers(monkeypatch)


@pytest.fixture
def command(workers, capsys):
    def run(*arguments: str):
        return called(
            ["search", "--minutes", "0.003", "--methods", "lora", "--no-ranges", *arguments]
        )

    def called(arguments):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        said = capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=said.out, err=said.err)

    run.replay = lambda: called(["replay", "--methods", "lora"])
    return run


def accepted(tmp_path, *findings) -> None:
    for one in findings:
        write_finding(tmp_path / "to accept", one)
    accept_findings(tmp_path / "to accept", corpus=tmp_path / "fuzz" / "corpus", reason="known")


def test_nothing_found_is_0(command, workers) -> None:
    done = command("--seed", "5")
    assert done.code == 0
    assert "0 new findings" in done.out
    assert "seed 5" in done.out
    assert len({one.seed for one in workers.requests}) == len(workers.requests) > 1


def test_a_new_finding_is_1_and_on_disk(command, workers, tmp_path) -> None:
    workers.answers = [ONE]
    done = command("--jobs", "1")
    assert done.code == 1
    assert "1 new finding" in done.out
    stored = read_finding(tmp_path / "runs" / "fuzz" / f"{ONE.name}.json")
    assert stored.example == ONE.example
    assert stored.packages == PACKAGES
    assert f"accept runs/fuzz/{ONE.name}.json" in " ".join(done.out.split())


def test_a_finding_is_on_disk_before_the_search_goes_on(command, workers, tmp_path) -> None:
    workers.answers = [ONE]
    there = []
    workers.on_seek = lambda: there.append((tmp_path / "runs/fuzz" / f"{ONE.name}.json").exists())
    command("--jobs", "1")
    assert there[:2] == [False, True]


def test_the_next_search_knows_what_was_found(command, workers) -> None:
    workers.answers = [ONE]
    command("--jobs", "1")
    assert [len(one.known) for one in workers.requests[:2]] == [0, 1]


def test_what_two_workers_find_is_one_finding(command, workers) -> None:
    workers.answers = [ONE, ONE]
    done = command("--jobs", "2")
    assert "1 new finding" in done.out


def test_a_wider_cause_replaces_a_narrower_one(command, workers, tmp_path) -> None:
    workers.answers = [OTHER, ONE]
    command("--jobs", "1")
    (path,) = (tmp_path / "runs" / "fuzz").iterdir()
    assert path.stem == ONE.name


def test_a_smaller_example_of_an_earlier_run_stays(command, workers, tmp_path) -> None:
    larger = finding(example(network={"seed": 12345678}))
    assert larger.cause == ONE.cause
    save = tmp_path / "runs" / "fuzz"
    for stored, found, kept in ((ONE, larger, ONE), (larger, ONE, ONE)):
        write_finding(save, stored)
        workers.answers = [found]
        assert command("--jobs", "1").code == 1
        assert read_finding(save / f"{ONE.name}.json").example == kept.example


def test_a_known_defect_that_is_still_there_is_0_and_known_to_the_search(
    command, workers, tmp_path
) -> None:
    accepted(tmp_path, ONE)
    workers.outcomes = {AS_JSON: Outcome(failure=failure())}
    done = command()
    assert done.code == 0
    assert "1 still there" in done.out
    assert workers.requests[0].known == (ONE.cause,)


def test_a_mended_defect_is_told_and_can_be_accepted_as_mended(command, workers, tmp_path) -> None:
    accepted(tmp_path, ONE)
    done = command.replay()
    assert (done.code, workers.requests) == (0, [])
    assert "1 mended" in done.out
    path = tmp_path / "runs" / "fuzz" / f"{ONE.name}.json"
    with pytest.raises(SystemExit) as ended:
        main(["accept", str(path), "--reason", "mended"])
    assert ended.value.code == 0
    assert "what to do" not in command.replay().out
    workers.outcomes = {AS_JSON: Outcome(failure=failure())}
    back = command.replay()
    assert back.code == 1
    assert "1 failing anew" in back.out


def test_an_entry_that_fails_otherwise_is_new(command, workers, tmp_path) -> None:
    accepted(tmp_path, ONE)
    workers.outcomes = {AS_JSON: Outcome(failure=failure("unmerged"))}
    assert command.replay().code == 1


def test_an_entry_that_was_not_replayed_is_3(command, workers, tmp_path, monkeypatch) -> None:
    accepted(tmp_path, ONE)

    def refuse(_):
        raise RequestRefusedError("KeyError: 'x'")

    monkeypatch.setattr(workers, "live", refuse)
    done = command.replay()
    assert done.code == 3
    assert "1 not replayed" in done.out


def test_a_corpus_of_another_schema_is_2_before_anything_runs(command, workers, tmp_path) -> None:
    accepted(tmp_path, ONE)
    path = tmp_path / "fuzz" / "corpus" / f"{ONE.name}.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    done = command()
    assert done.code == 2
    assert "newer than 1" in done.err
    assert "pip install -U" in done.err
    assert workers.requests == []


def test_a_method_that_the_release_lacks_is_3(command, workers) -> None:
    workers.absent = ("lora",)
    done = command()
    assert done.code == 3
    assert "peft 0.21.2 has no lora" in done.out
    assert workers.requests == []


def test_a_method_of_several_that_the_release_lacks_is_told(command, workers) -> None:
    workers.absent = ("dora",)
    done = command("--methods", "?ora")
    assert done.code == 0
    assert "has no dora" in done.out
    assert {one.methods for one in workers.requests} == {("lora",)}


def test_an_unknown_method_is_2(command) -> None:
    done = command("--methods", "lira")
    assert done.code == 2
    assert "unknown method of the fuzzer 'lira'" in done.err
    assert "lora" in done.err


def test_an_interrupt_loses_nothing(command, workers, tmp_path, monkeypatch) -> None:
    workers.answers = [ONE]
    real = parallel_search.wait

    def interrupted(*arguments):
        if workers.answers:
            return real(arguments[0], 0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel_search, "wait", interrupted)
    done = command("--minutes", "1", "--jobs", "1")
    assert done.code == 1
    assert "incomplete: interrupted" in done.out
    assert ONE.name in done.out
    assert (tmp_path / "runs" / "fuzz" / f"{ONE.name}.json").exists()


def test_an_interrupt_without_a_finding_is_3(command, monkeypatch) -> None:
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel_search, "wait", interrupted)
    assert command("--minutes", "1").code == 3


def test_a_full_disk_is_told_at_once_and_ends_the_search(command, workers, monkeypatch) -> None:
    workers.answers = [ONE, OTHER]

    def full(*_):
        raise InputError("cannot be written (No space left on device)")

    monkeypatch.setattr(fuzz_module, "write_finding", full)
    done = command("--minutes", "1", "--jobs", "1")
    assert done.code == 2
    assert "No space left" in done.err
    assert "stopped, a finding was not written" in done.out
    assert ONE.name in done.out
    assert len(workers.requests) == 1


def test_a_search_that_fails_is_3_and_told(command, workers) -> None:
    workers.answers = [RequestRefusedError("KeyError: 'x'")]
    done = command("--jobs", "1")
    assert done.code == 3
    assert "a search failed: KeyError" in done.out


@pytest.mark.parametrize("was_begun", [True, False])
def test_a_cluster_that_goes_loses_no_finding_and_no_report(
    command, workers, monkeypatch, was_begun
) -> None:
    pool = SimpleNamespace(slots=1, status="1 running")
    monkeypatch.setattr(search_command, "opened_pool", lambda *_, **__: nullcontext(pool))
    monkeypatch.setattr(cluster_search, "RemoteLifeWorker", workers.make)
    gone = ClusterLostError("tcp://10.0.0.5:8786: the Dask scheduler has gone")
    if was_begun:
        workers.answers = [ONE, gone]
    else:
        monkeypatch.setattr(workers, "begin", Mock(side_effect=gone))
    done = command("--on", "tcp://10.0.0.5:8786")
    if was_begun:
        assert done.code == 1
        assert ONE.name in done.out
        assert f"the search ended early: {gone}" in done.out
    else:
        assert (done.code, done.out) == (3, "")
        assert f"error: {gone}" in done.err


def test_searches_that_all_fail_end(command, workers) -> None:
    workers.answers = [RequestRefusedError("KeyError: 'x'")] * 100
    done = command("--jobs", "1", "--minutes", "1")
    assert done.code == 3
    assert len(workers.requests) < 10


def test_minutes_that_are_no_number_are_2(command) -> None:
    done = command("--minutes", "nan")
    assert done.code == 2
    assert "'nan' is not a number" in done.err


def test_a_replay_of_nothing_is_3_and_a_search_without_a_corpus_is_told(command) -> None:
    done = command.replay()
    assert done.code == 3
    assert "no known defects of 'lora' in fuzz/corpus: nothing was replayed" in done.out
    done = command()
    assert done.code == 0
    assert "no known defects of 'lora' in fuzz/corpus: all that is found is new" in done.out


def test_a_folder_that_cannot_be_written_to_is_2_before_the_search(
    command, workers, tmp_path
) -> None:
    (tmp_path / "file").write_text("")
    done = command("--save", "file/findings")
    assert done.code == 2
    assert "file/findings" in done.err
    assert workers.requests == []


def test_a_summary_that_cannot_be_written_is_2_and_the_report_is_shown(
    command, workers, tmp_path, monkeypatch
) -> None:
    from peft_fuzz.search import reproduce

    monkeypatch.setattr(reproduce, "output_of", lambda s, _: reproduce.Shown(s, "came: x", 1))
    (tmp_path / "file").write_text("")
    workers.answers = [ONE]
    done = command("--summary", "file/found.md", "--jobs", "1")
    assert done.code == 2
    assert "file/found.md" in done.err
    assert "1 new finding" in done.out


@pytest.mark.parametrize("option", ["--save", "--summary"])
def test_nothing_is_written_into_the_corpus(command, option) -> None:
    done = command(option, "fuzz/corpus/new")
    assert done.code == 2
    assert "lies in the corpus fuzz/corpus" in done.err


def test_the_summary_has_scripts_and_json_has_all(command, workers, tmp_path, monkeypatch) -> None:
    from peft_fuzz.search import reproduce

    ran = []
    monkeypatch.setattr(
        reproduce, "output_of", lambda script, _: ran.append(script) or
        reproduce.Shown(script, "came: a difference", 1),
    )  # fmt: skip
    workers.answers = [ONE]
    done = command("--format", "json", "--summary", "found.md", "--jobs", "1")
    value = json.loads(done.out)
    assert (value["exit_code"], done.code) == (1, 1)
    assert value["findings"][0]["name"] == ONE.name
    assert value["findings"][0]["script"] == ran[0]
    assert value["findings"][0]["shows_failure"] is True
    assert value["counts"]["lives"]["lora"] > 0
    assert value["packages"] == PACKAGES
    text = (tmp_path / "found.md").read_text()
    assert "```python\n" in text
    assert "came: a difference" in text
    assert ONE.name in text


class Releases:
    """Stands in for the index and for what each release says of each finding."""

    def __init__(self, monkeypatch, fails) -> None:
        self.fails, self.opened, self.interrupt_after = fails, [], 99
        monkeypatch.setattr(ranges_module, "released_versions", self.versions)
        monkeypatch.setattr(ranges_module, "opened_overlay", self.overlay)
        monkeypatch.setattr(ranges_module, "replay", self.replay)

    def versions(self, *_, **__):
        from packaging.version import Version

        return [Version("0.9.0"), *map(Version, sorted(self.fails, key=Version))]

    @contextlib.contextmanager
    def overlay(self, requirements, **_):
        version = requirements[0].partition("==")[2]
        self.opened.append(version)
        if self.fails[version] is None:
            raise InputError("ImportError: HybridCache")
        if len(self.opened) > self.interrupt_after:
            raise KeyboardInterrupt
        yield SimpleNamespace(python=version)

    def replay(self, findings, python, **_):
        outcomes = {
            True: lambda one: Outcome(failure=one.failure),
            False: lambda _: Outcome(),
            "otherwise": lambda _: Outcome(failure=failure("dtype")),
        }
        entries = [
            replay_module.judged(one, outcomes[self.fails[python](one)](one)) for one in findings
        ]
        return replay_module.Replay(entries=tuple(entries), packages={})


def ranges(monkeypatch, fails, findings=(ONE,)):
    known = {f"0.{number}.0": fails(number) for number in range(10, 22)}
    world = Releases(monkeypatch, known)
    found = ranges_module.find_ranges(
        findings, requirements=[], fuzzed="0.21.0", life_seconds=1, pip_seconds=1,
        say=lambda _: None,
    )  # fmt: skip
    return found, world.opened


@pytest.mark.parametrize("since", range(10, 22))
def test_the_first_failing_release_is_found(monkeypatch, since) -> None:
    found, opened = ranges(monkeypatch, lambda number: lambda _: number >= since)
    one = found.of[ONE.name]
    assert one.first == f"0.{since}.0"
    assert one.last_good == (None if since == 10 else f"0.{since - 1}.0")
    assert len(opened) <= 5
    assert "0.9.0" not in opened


def test_releases_that_cannot_be_used_may_be_the_first(monkeypatch) -> None:
    found, _ = ranges(
        monkeypatch, lambda number: None if number in {10, 16, 17} else lambda _: number >= 17
    )
    one = found.of[ONE.name]
    assert (one.first, one.last_good, one.between) == ("0.18.0", "0.15.0", ("0.16.0", "0.17.0"))


def test_a_release_in_which_another_check_fails_is_undecided_and_named(monkeypatch) -> None:
    states = {**dict.fromkeys(range(10, 15), False), 15: "otherwise", 16: "otherwise"}
    found, _ = ranges(monkeypatch, lambda number: lambda _: states.get(number, True))
    one = found.of[ONE.name]
    assert (one.first, one.last_good, one.between) == ("0.17.0", "0.14.0", ("0.15.0", "0.16.0"))
    assert "undecided in 0.15.0, 0.16.0: fails by the check dtype" in one.sentence
    assert not {"0.15.0", "0.16.0"} & {*one.passing, *one.failing}


def test_an_interrupt_keeps_the_ranges_that_are_known(
    command, workers, monkeypatch, tmp_path
) -> None:
    known = {f"0.{number}.0": (lambda one, n=number: n >= 16) for number in range(10, 21)}
    world = Releases(monkeypatch, {**known, "0.21.2": lambda _: True})
    world.interrupt_after = 2  # the oldest one and the middle
    workers.answers = [ONE]
    done = command("--jobs", "1", "--ranges")
    assert done.code == 1
    assert "incomplete: interrupted" in done.out
    stored = read_finding(tmp_path / "runs" / "fuzz" / f"{ONE.name}.json").releases
    assert len(world.opened) == 3
    assert (stored.first, stored.last_good) == ("0.21.2", "0.15.0")
    assert stored.between == ("0.16.0", "0.17.0", "0.18.0", "0.19.0", "0.20.0")
    assert "not tried: 0.16.0, 0.17.0" in " ".join(done.out.split())


def test_an_interrupt_of_the_replay_keeps_what_is_known(
    command, workers, tmp_path, monkeypatch
) -> None:
    accepted(tmp_path, ONE, OTHER)
    outcomes = [Outcome(failure=failure())]

    def live(_):
        if not outcomes:
            raise KeyboardInterrupt
        return outcomes.pop()

    monkeypatch.setattr(workers, "live", live)
    done = command()
    assert done.code == 3
    assert "1 not replayed, 1 still there" in done.out
    assert "peft 0.21.2" in done.out
    assert workers.requests == []


def test_a_worker_that_dies_at_each_entry_stops_the_replay(
    command, workers, tmp_path, monkeypatch
) -> None:
    layers = (layer(), layer(bias=False), layer("conv1d"), layer("conv2d"), layer("conv3d"))
    accepted(tmp_path, *(finding(example(one)) for one in layers))
    lived = []

    def live(one):
        lived.append(one)
        return Outcome(failure=failure("crash", error="SIGSEGV"))

    monkeypatch.setattr(workers, "live", live)
    done = command.replay()
    assert done.code == 3
    assert len(lived) == 3
    assert "5 not replayed" in done.out
    text = " ".join(done.out.split())
    assert "stopped: 3 entries in a row ended the process (lora-merged-" in text
    assert "The output differs by 1.0." in text


def test_crashes_that_are_known_are_replayed_all(command, workers, tmp_path) -> None:
    layers = (layer(), layer(bias=False), layer("conv1d"), layer("conv2d"))
    crash = failure("crash", error="SIGSEGV")
    entries = [finding(example(one), crash) for one in layers]
    accepted(tmp_path, *entries)
    workers.outcomes = {msgspec.json.encode(one.example): Outcome(failure=crash) for one in entries}
    done = command.replay()
    assert done.code == 0
    assert "4 still there" in done.out


def test_an_interrupt_while_scripts_run_loses_no_report(
    command, workers, tmp_path, monkeypatch
) -> None:
    from peft_fuzz.search import reproduce

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(reproduce, "output_of", interrupted)
    workers.answers = [ONE]
    done = command("--summary", "found.md", "--jobs", "1")
    assert done.code == 1
    assert "incomplete: interrupted" in done.out
    text = (tmp_path / "found.md").read_text()
    assert ONE.name in text
    assert "```python\n" in text
    assert "(not run: interrupted)" in text
    assert "print('nothing differs')\n```" in text
    assert "does not show" not in text


def test_after_an_interrupt_no_script_is_run(command, workers, tmp_path, monkeypatch) -> None:
    from peft_fuzz.search import reproduce

    ran = []
    monkeypatch.setattr(reproduce, "output_of", lambda *_: ran.append(1))
    workers.answers = [ONE]
    real = parallel_search.wait

    def wait(*arguments):
        if workers.answers:
            return real(arguments[0], 0.05)
        raise KeyboardInterrupt

    monkeypatch.setattr(parallel_search, "wait", wait)
    done = command("--minutes", "1", "--summary", "found.md", "--jobs", "1", "--format", "json")
    assert done.code == 1
    assert ran == []
    assert json.loads(done.out)["findings"][0]["shows_failure"] is None
    assert "(not run: interrupted)" in (tmp_path / "found.md").read_text()


def test_the_known_defects_are_listed_without_a_search_and_counted_with_one(
    command, workers, tmp_path
) -> None:
    accepted(tmp_path, ONE)
    workers.outcomes = {AS_JSON: Outcome(failure=failure())}
    assert ONE.name in command.replay().out
    done = command()
    assert "1 still there" in done.out
    assert ONE.name not in done.out


def test_each_release_is_opened_once_for_all_findings_and_gaps_are_told(monkeypatch) -> None:
    gap = {ONE.name: {10, 16, 17, 18, 19, 20, 21}, OTHER.name: set(range(13, 22))}
    found, opened = ranges(
        monkeypatch, lambda number: lambda one: number in gap[one.name], (OTHER, ONE)
    )
    assert len(opened) == len(set(opened))
    assert found.of[OTHER.name].first == "0.13.0"
    assert found.of[ONE.name].first == "0.16.0"
    assert "; also in 0.10.0" in found.of[ONE.name].sentence


def test_without_an_index_the_finding_has_no_range_and_the_report_says_why(
    command, workers, monkeypatch
) -> None:
    def no_index(*_, **__):
        raise PipError("peft", "no index")

    monkeypatch.setattr(ranges_module, "released_versions", no_index)
    workers.answers = [ONE]
    done = command("--jobs", "1", "--ranges")
    assert done.code == 1
    assert "no range of releases: peft: no index" in done.out


def test_findings_are_numbered_by_cause_and_methods_are_listed(command, workers) -> None:
    raised = failure("exception", error="TypeError", where="tuners.tuners_utils:merge")
    same = [finding(example(method=name), raised) for name in ("lora", "loha")]
    workers.answers = [*same, OTHER]
    done = command("--jobs", "1")
    text = " ".join(done.out.split())
    assert "1. loha, lora on linear: TypeError after merging" in text
    assert "2. lora on linear" in text
    assert " 3. " not in text


def test_failing_formulas_of_two_methods_or_settings_are_two_and_costs_of_one_method_are_one(
    command, workers
) -> None:
    failed = failure("function", 0)
    workers.answers = [
        finding(example(method="lora", settings={"use_rslora": True}), failed),
        finding(example(method="loha"), failed),
        finding(example(method="lora", settings={"use_dora": True}), failed),
        finding(example(acts=(Fill(),), method="hra"), failure("cost", 0)),
        finding(example(acts=(Fill(), Copy()), method="hra"), failure("cost", 1)),
    ]
    done = command("--jobs", "1", "--methods", "*")
    text = " ".join(done.out.split())
    assert "3. lora on linear: another function" in text
    assert "4. hra on linear: more FLOPs than the formula needs failure:" in text
    assert " 5. " not in text


def test_entries_that_were_not_replayed_for_one_reason_are_one_row(
    command, workers, tmp_path, monkeypatch
) -> None:
    layers = (layer(), layer(bias=False), layer("conv1d"), layer("conv2d"))
    accepted(tmp_path, *(finding(example(one)) for one in layers))

    def live(_):
        raise KeyboardInterrupt

    monkeypatch.setattr(workers, "live", live)
    done = command.replay()
    assert done.code == 3
    text = " ".join(done.out.split())
    assert "4 findings not replayed interrupted" in text
    assert "lora-merged-" not in text
