"""`peft-fuzz search` and `replay`: corpus, findings on disk, reports, exit codes, bad input."""

from __future__ import annotations

import contextlib
import json
import threading
import time
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest
from fuzz_examples import PACKAGES, example, failure, finding, layer
from packaging.version import Version

from peft_fuzz.acts import Copy, Fill
from peft_fuzz.cli import main
from peft_fuzz.cli import search as search_command
from peft_fuzz.example import Outcome
from peft_fuzz.search import cluster_search, parallel_search, reproduce
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
STILL = {AS_JSON: Outcome(failure=failure())}
KINDS = (layer(), layer(bias=False), *(layer(f"conv{size}d") for size in (1, 2, 3)))
FAILED_SEARCH = RequestRefusedError("KeyError: 'x'")
JOB = ("--jobs", "1")


class World:
    """Stands in for worker processes; `answers` are what the searches bring, in this order."""

    def __init__(self, monkeypatch, tmp_path, capsys) -> None:
        self.tmp_path, self.capsys = tmp_path, capsys
        self.answers = []
        self.outcomes = {}
        self.absent = ()
        self.requests = []
        self.on_seek = lambda: None
        self.save = tmp_path / "runs" / "fuzz"
        self.path = self.save / f"{ONE.name}.json"
        self.now = 0.0
        """Only searches take time."""
        clock = SimpleNamespace(monotonic=lambda: self.now)
        for module in (fuzz_module, parallel_search):
            monkeypatch.setattr(module, "time", clock)
        for module in (parallel_search, replay_module):
            monkeypatch.setattr(module, "LifeWorker", self.make)
        monkeypatch.setattr(parallel_search, "SLICE_SECONDS", 0.05)

    def search(self, *arguments: str):
        return self.called(
            "search", "--minutes", "0.003", "--methods", "lora", "--no-ranges", *arguments
        )

    def replay(self):
        return self.called("replay", "--methods", "lora")

    def called(self, *arguments: str):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        out, err = self.capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err, text=" ".join(out.split()))

    def accept(self, *findings) -> None:
        for one in findings:
            write_finding(self.tmp_path / "to accept", one)
        corpus = self.tmp_path / "fuzz" / "corpus"
        accept_findings(self.tmp_path / "to accept", corpus=corpus, reason="known")

    def interrupt(self) -> None:
        """Interrupt the search once all answers were given."""

        def on_seek():
            if not self.answers:
                raise KeyboardInterrupt

        self.on_seek = on_seek

    @contextlib.contextmanager
    def make(self, *_, **__):
        stopped = threading.Event()
        yield SimpleNamespace(
            begin=self.begin, live=self.live, seek=self.seek, stop=stopped.set,
            is_stopped=stopped.is_set,
        )  # fmt: skip

    def begin(self):
        return Begun(absent=self.absent, packages=dict(PACKAGES))

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
def world(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    return World(monkeypatch, tmp_path, capsys)


@pytest.mark.parametrize(
    ("answers", "arguments", "code", "said"),
    [
        ([], ("--seed", "5"), 0, "0 new findings"),
        ([], ("--seed", "5"), 0, "seed 5"),
        ([], (), 0, "no known defects of 'lora' in fuzz/corpus: all that is found is new"),
        ([ONE], JOB, 1, f"1 new finding, .*accept runs/fuzz/{ONE.name}.json"),
        ([ONE, ONE], ("--jobs", "2"), 1, "1 new finding"),
        ([FAILED_SEARCH], JOB, 3, "a search failed: KeyError"),
    ],
)
def test_a_search_says_what_came_of_it(world, answers, arguments, code, said) -> None:
    world.answers = [*answers]
    done = world.search(*arguments)
    assert done.code == code
    assert all(part in done.text for part in said.split(", .*"))
    assert len({one.seed for one in world.requests}) == len(world.requests) > 1


def test_a_finding_is_on_disk_and_known_before_the_search_goes_on(world) -> None:
    world.answers = [ONE]
    there = []
    world.on_seek = lambda: there.append(world.path.exists())
    world.search(*JOB)
    assert there[:2] == [False, True]
    assert [len(one.known) for one in world.requests[:2]] == [0, 1]
    stored = read_finding(world.path)
    assert (stored.example, stored.packages) == (ONE.example, PACKAGES)


def test_a_wider_cause_replaces_a_narrower_one(world) -> None:
    world.answers = [OTHER, ONE]
    world.search(*JOB)
    assert [*world.save.iterdir()] == [world.path]


def test_a_smaller_example_of_an_earlier_run_stays(world) -> None:
    larger = finding(example(network={"seed": 12345678}))
    assert larger.cause == ONE.cause
    for stored, found in ((ONE, larger), (larger, ONE)):
        write_finding(world.save, stored)
        world.answers = [found]
        assert world.search(*JOB).code == 1
        assert read_finding(world.path).example == ONE.example


def test_a_known_defect_is_listed_by_a_replay_and_counted_by_a_search_that_knows_it(world) -> None:
    world.accept(ONE)
    world.outcomes = STILL
    assert ONE.name in world.replay().out
    done = world.search()
    assert done.code == 0
    assert "1 still there" in done.out
    assert ONE.name not in done.out
    assert world.requests[0].known == (ONE.cause,)


def test_a_mended_defect_is_told_and_can_be_accepted_as_mended(world) -> None:
    world.accept(ONE)
    done = world.replay()
    assert (done.code, world.requests) == (0, [])
    assert "1 mended" in done.out
    assert world.called("accept", str(world.path), "--reason", "mended").code == 0
    assert "what to do" not in world.replay().out
    world.outcomes = STILL
    back = world.replay()
    assert back.code == 1
    assert "1 failing anew" in back.out


CRASH = failure("crash", error="SIGSEGV")


@pytest.mark.parametrize(
    ("known", "live", "code", "said"),
    [
        ([], None, 3, ["no known defects of 'lora' in fuzz/corpus: nothing was replayed"]),
        ([ONE], [Outcome(failure=failure("unmerged"))], 1, ["1 failing anew"]),
        ([ONE], FAILED_SEARCH, 3, ["1 not replayed"]),
        # Each entry ends the process, which it did not when it was found.
        (
            [finding(example(one)) for one in KINDS],
            [Outcome(failure=CRASH)] * 3,
            3,
            ["5 not replayed", "stopped: 3 entries in a row ended the process (lora-merged-",
             "The output differs by 1.0."],
        ),
        (
            [finding(example(one), CRASH) for one in KINDS],
            [Outcome(failure=CRASH)] * 5,
            0,
            ["5 still there"],
        ),
        # What has one reason is one row.
        (
            [finding(example(one)) for one in KINDS],
            KeyboardInterrupt,
            3,
            ["5 findings not replayed interrupted"],
        ),
    ],
    ids=["nothing", "otherwise", "refused", "deaths", "known deaths", "interrupted"],
)  # fmt: skip
def test_a_replay_says_in_which_state_entries_are(  # noqa: PLR0917
    world, monkeypatch, known, live, code, said
) -> None:
    if known:
        world.accept(*known)
    lived = Mock(side_effect=live)
    monkeypatch.setattr(world, "live", lived)
    done = world.replay()
    assert done.code == code
    assert all(part in done.text for part in said)
    if isinstance(live, list):
        assert lived.call_count == len(live)
    if live is KeyboardInterrupt:
        assert "lora-merged-" not in done.text


def test_an_interrupt_of_the_replay_keeps_what_is_known(world, monkeypatch) -> None:
    world.accept(ONE, OTHER)
    lives = Mock(side_effect=[Outcome(failure=failure()), KeyboardInterrupt])
    monkeypatch.setattr(world, "live", lives)
    done = world.search()
    assert done.code == 3
    assert "1 not replayed, 1 still there" in done.out
    assert "peft 0.21.2" in done.out
    assert world.requests == []


def test_a_corpus_of_another_schema_is_2_before_anything_runs(world, tmp_path) -> None:
    world.accept(ONE)
    path = tmp_path / "fuzz" / "corpus" / f"{ONE.name}.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    done = world.search()
    assert (done.code, world.requests) == (2, [])
    assert "newer than 1" in done.err
    assert "pip install -U" in done.err


@pytest.mark.parametrize(
    ("absent", "methods", "code", "said"),
    [("lora", "lora", 3, "peft 0.21.2 has no lora"), ("dora", "?ora", 0, "has no dora")],
)
def test_methods_that_the_release_lacks_are_told(world, absent, methods, code, said) -> None:
    world.absent = (absent,)
    done = world.search("--methods", methods)
    assert done.code == code
    assert said in done.out
    assert {one.methods for one in world.requests} == ({("lora",)} if code == 0 else set())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "lira"), "unknown method of the fuzzer 'lira'"),
        (("--minutes", "nan"), "'nan' is not a number"),
        (("--save", "file/findings"), "file/findings"),
        (("--save", "fuzz/corpus/new"), "lies in the corpus fuzz/corpus"),
        (("--summary", "fuzz/corpus/new"), "lies in the corpus fuzz/corpus"),
    ],
)
def test_wrong_use_is_2_before_the_search(world, tmp_path, arguments, said) -> None:
    (tmp_path / "file").write_text("")
    done = world.search(*arguments)
    assert (done.code, world.requests) == (2, [])
    assert said in done.err


@pytest.mark.parametrize(("answers", "code"), [([ONE], 1), ([], 3)])
def test_an_interrupt_loses_nothing(world, answers, code) -> None:
    world.answers = [*answers]
    world.interrupt()
    done = world.search("--minutes", "1", *JOB)
    assert done.code == code
    assert "incomplete: interrupted" in done.out
    assert all(ONE.name in done.out and world.path.exists() for _ in answers)


def test_a_full_disk_is_told_at_once_and_ends_the_search(world, monkeypatch) -> None:
    world.answers = [ONE, OTHER]
    full = Mock(side_effect=InputError("cannot be written (No space left on device)"))
    monkeypatch.setattr(fuzz_module, "write_finding", full)
    done = world.search("--minutes", "1", *JOB)
    assert done.code == 2
    assert "No space left" in done.err
    assert "stopped, a finding was not written" in done.out
    assert ONE.name in done.out
    assert len(world.requests) == 1


def test_searches_that_all_fail_end(world) -> None:
    world.answers = [FAILED_SEARCH] * 100
    assert world.search(*JOB, "--minutes", "1").code == 3
    assert len(world.requests) < 10


@pytest.mark.parametrize("was_begun", [True, False])
def test_a_cluster_that_goes_loses_no_finding_and_no_report(world, monkeypatch, was_begun) -> None:
    pool = SimpleNamespace(slots=1, status="1 running")
    monkeypatch.setattr(
        search_command, "opened_pool", lambda *_, **__: contextlib.nullcontext(pool)
    )
    monkeypatch.setattr(cluster_search, "RemoteLifeWorker", world.make)
    gone = ClusterLostError("tcp://10.0.0.5:8786: the Dask scheduler has gone")
    world.answers = [ONE, gone]
    if not was_begun:
        monkeypatch.setattr(world, "begin", Mock(side_effect=gone))
    done = world.search("--on", "tcp://10.0.0.5:8786")
    if was_begun:
        assert done.code == 1
        assert ONE.name in done.out
        assert f"the search ended early: {gone}" in done.out
    else:
        assert (done.code, done.out) == (3, "")
        assert f"error: {gone}" in done.err


@pytest.fixture
def scripts(monkeypatch):
    """What runs a script, and what was run."""
    run = Mock(side_effect=lambda script, _: reproduce.Shown(script, "came: a difference", 1))
    monkeypatch.setattr("peft_fuzz.cli.showing.output_of", run)
    return run


def test_a_summary_that_cannot_be_written_is_2_and_the_report_is_shown(
    world, tmp_path, scripts
) -> None:
    (tmp_path / "file").write_text("")
    world.answers = [ONE]
    done = world.search("--summary", "file/found.md", *JOB)
    assert done.code == 2
    assert "file/found.md" in done.err
    assert "1 new finding" in done.out


def test_the_summary_has_scripts_and_json_has_all(world, tmp_path, scripts) -> None:
    world.answers = [ONE]
    done = world.search("--format", "json", "--summary", "found.md", *JOB)
    value = json.loads(done.out)
    (one,) = value["findings"]
    assert (value["exit_code"], done.code) == (1, 1)
    assert one["name"] == ONE.name
    assert one["script"] == scripts.call_args.args[0]
    assert one["shows_failure"] is True
    assert value["counts"]["lives"]["lora"] > 0
    assert value["packages"] == PACKAGES
    text = (tmp_path / "found.md").read_text()
    assert all(part in text for part in ("```python\n", "came: a difference", ONE.name))


def test_an_interrupt_while_scripts_run_loses_no_report(world, tmp_path, scripts) -> None:
    scripts.side_effect = KeyboardInterrupt
    world.answers = [ONE]
    done = world.search("--summary", "found.md", *JOB)
    assert done.code == 1
    assert "incomplete: interrupted" in done.out
    text = (tmp_path / "found.md").read_text()
    shown = ("```python\n", "(not run: interrupted)", "print('nothing differs')\n```", ONE.name)
    assert all(part in text for part in shown)
    assert "does not show" not in text


def test_after_an_interrupt_no_script_is_run(world, tmp_path, scripts) -> None:
    world.answers = [ONE]
    world.interrupt()
    done = world.search("--minutes", "1", "--summary", "found.md", *JOB, "--format", "json")
    assert done.code == 1
    assert not scripts.called
    assert json.loads(done.out)["findings"][0]["shows_failure"] is None
    assert "(not run: interrupted)" in (tmp_path / "found.md").read_text()


def test_findings_are_numbered_by_cause_and_methods_are_listed(world) -> None:
    raised = failure("exception", error="TypeError", where="tuners.tuners_utils:merge")
    same = [finding(example(method=name), raised) for name in ("lora", "loha")]
    world.answers = [*same, OTHER]
    text = world.search(*JOB).text
    assert "1. loha, lora on linear: TypeError after merging" in text
    assert "2. lora on linear" in text
    assert " 3. " not in text


def test_failing_formulas_of_two_methods_or_settings_are_two_and_costs_of_one_method_are_one(
    world,
) -> None:
    failed = failure("function", 0)
    world.answers = [
        finding(example(method="lora", settings={"use_rslora": True}), failed),
        finding(example(method="loha"), failed),
        finding(example(method="lora", settings={"use_dora": True}), failed),
        finding(example(acts=(Fill(),), method="hra"), failure("cost", 0)),
        finding(example(acts=(Fill(), Copy()), method="hra"), failure("cost", 1)),
    ]
    text = world.search(*JOB, "--methods", "*").text
    assert "3. lora on linear: another function" in text
    assert "4. hra on linear: more FLOPs than the formula needs failure:" in text
    assert " 5. " not in text


# --- the releases in which findings fail ---------------------------------------------------------


class Releases:
    """Stands in for the index and for what each release says of each finding."""

    def __init__(self, monkeypatch, fails) -> None:
        self.fails, self.opened, self.interrupt_after = fails, [], 99
        versions = [Version("0.9.0"), *map(Version, sorted(fails, key=Version))]
        monkeypatch.setattr(ranges_module, "released_versions", lambda *_, **__: versions)
        monkeypatch.setattr(ranges_module, "opened_overlay", self.overlay)
        monkeypatch.setattr(replay_module.Replay, "run", lambda *given, **_: self.run(*given))

    @contextlib.contextmanager
    def overlay(self, requirements, **_):
        version = requirements[0].partition("==")[2]
        self.opened.append(version)
        if self.fails[version] is None:
            raise InputError("ImportError: HybridCache")
        if len(self.opened) > self.interrupt_after:
            raise KeyboardInterrupt
        yield SimpleNamespace(python=version)

    def run(self, replay, python):
        outcomes = {
            True: lambda one: Outcome(failure=one.failure),
            False: lambda _: Outcome(),
            "otherwise": lambda _: Outcome(failure=failure("dtype")),
        }
        replay.entries = [
            replay_module.judged(one, outcomes[self.fails[python](one)](one))
            for one in replay.findings
        ]


def ranges(monkeypatch, fails, findings=(ONE,)):
    known = {f"0.{number}.0": fails(number) for number in range(10, 22)}
    world = Releases(monkeypatch, known)
    found = ranges_module.Ranges(
        findings, requirements=[], life_seconds=1, pip_seconds=1, say=lambda _: None
    )
    found.find("0.21.0")
    return found, world.opened


@pytest.mark.parametrize("since", range(10, 22))
def test_the_first_failing_release_is_found(monkeypatch, since) -> None:
    found, opened = ranges(monkeypatch, lambda number: lambda _: number >= since)
    one = found.of(ONE.name)
    assert one.first == f"0.{since}.0"
    assert one.last_good == (None if since == 10 else f"0.{since - 1}.0")
    assert len(opened) <= 5
    assert "0.9.0" not in opened


OTHERWISE = {**dict.fromkeys(range(10, 15), False), 15: "otherwise", 16: "otherwise"}


@pytest.mark.parametrize(
    ("fails", "first", "last_good", "between"),
    [
        (lambda n: None if n in {10, 16, 17} else lambda _: n >= 17, "0.18.0", "0.15.0",
         ("0.16.0", "0.17.0")),
        (lambda n: lambda _: OTHERWISE.get(n, True), "0.17.0", "0.14.0", ("0.15.0", "0.16.0")),
    ],
    ids=["cannot be used", "fails otherwise"],
)  # fmt: skip
def test_releases_of_which_nobody_knows_may_be_the_first(
    monkeypatch, fails, first, last_good, between
) -> None:
    one = ranges(monkeypatch, fails)[0].of(ONE.name)
    assert (one.first, one.last_good, one.between) == (first, last_good, between)
    assert not {*between} & {*one.passing, *one.failing}
    is_otherwise = "undecided in 0.15.0, 0.16.0: fails by the check dtype" in one.sentence
    assert is_otherwise == (first == "0.17.0")


def test_each_release_is_opened_once_for_all_findings_and_gaps_are_told(monkeypatch) -> None:
    gap = {ONE.name: {10, 16, 17, 18, 19, 20, 21}, OTHER.name: set(range(13, 22))}
    found, opened = ranges(
        monkeypatch, lambda number: lambda one: number in gap[one.name], (OTHER, ONE)
    )
    assert len(opened) == len(set(opened))
    assert found.of(OTHER.name).first == "0.13.0"
    assert found.of(ONE.name).first == "0.16.0"
    assert "; also in 0.10.0" in found.of(ONE.name).sentence


def test_an_interrupt_keeps_the_ranges_that_are_known(world, monkeypatch) -> None:
    known = {f"0.{number}.0": (lambda one, n=number: n >= 16) for number in range(10, 21)}
    releases = Releases(monkeypatch, {**known, "0.21.2": lambda _: True})
    releases.interrupt_after = 2  # the oldest one and the middle
    world.answers = [ONE]
    done = world.search(*JOB, "--ranges")
    assert done.code == 1
    assert "incomplete: interrupted" in done.out
    stored = read_finding(world.path).releases
    assert len(releases.opened) == 3
    assert (stored.first, stored.last_good) == ("0.21.2", "0.15.0")
    assert stored.between == ("0.16.0", "0.17.0", "0.18.0", "0.19.0", "0.20.0")
    assert "not tried: 0.16.0, 0.17.0" in done.text


def test_without_an_index_the_finding_has_no_range_and_the_report_says_why(
    world, monkeypatch
) -> None:
    no_index = Mock(side_effect=PipError("peft", "no index"))
    monkeypatch.setattr(ranges_module, "released_versions", no_index)
    world.answers = [ONE]
    done = world.search(*JOB, "--ranges")
    assert done.code == 1
    assert "no range of releases: peft: no index" in done.out
