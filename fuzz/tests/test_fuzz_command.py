"""`peft-fuzz search` and `replay`: corpus, findings on disk, reports, exit codes, bad input."""

import contextlib
import json
from concurrent.futures import Future
from types import SimpleNamespace
from unittest.mock import Mock

import msgspec
import pytest
from fuzz_examples import PACKAGES, example, failure, finding, layer

from peft_fuzz.cli import main
from peft_fuzz.cli import search as search_command
from peft_fuzz.example import Outcome
from peft_fuzz.search import fuzz as fuzz_module
from peft_fuzz.search import parallel_search
from peft_fuzz.search import replay as replay_module
from peft_fuzz.search.findings import accept_findings, read_finding, write_finding
from peft_fuzz.search.sought import Counts, Found, Sought
from peft_fuzz.search.worker import Begun
from peft_regress.errors import AbsentError, InputError, PeftRegressError
from peft_regress.workers.worker import RequestRefusedError

ONE = finding()
AS_JSON = msgspec.json.encode(ONE.example)
OTHER = finding(example(layer(bias=False)))
STILL = {AS_JSON: Outcome(failure=failure())}
KINDS = (layer(), layer(bias=False), *(layer(f"conv{size}d") for size in (1, 2, 3)))
RAISED = failure("exception", error="TypeError", where="tuners.tuners_utils:merge")
SAME = [finding(example(method=name), RAISED) for name in ("lora", "loha")]
FAILED_SEARCH = RequestRefusedError("KeyError: 'x'")
JOB = ("--jobs", "1")


class World:
    """Stands in for a pool; `answers` are what the searches bring, in this order."""

    slots, status = 1, "1 running"

    def __init__(self, monkeypatch, tmp_path, capsys):
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
        for module in (fuzz_module, replay_module):
            monkeypatch.setattr(module, "LocalPool", lambda *_, **__: contextlib.nullcontext(self))

    def search(self, *arguments):
        return self.called("search", "--minutes", "0.003", "--methods", "lora", *arguments)

    def replay(self):
        return self.called("replay", "--methods", "lora")

    def called(self, *arguments):
        with pytest.raises(SystemExit) as ended:
            main([*arguments])
        out, err = self.capsys.readouterr()
        return SimpleNamespace(code=ended.value.code, out=out, err=err, text=" ".join(out.split()))

    def accept(self, *findings):
        for one in findings:
            write_finding(self.tmp_path / "to accept", one)
        corpus = self.tmp_path / "fuzz" / "corpus"
        accept_findings(self.tmp_path / "to accept", corpus=corpus, reason="known")

    def submit(self, _environment, function, requests, _answer):
        act = {"begin": self.begin, "live": self.live, "search": self.seek}
        futures = []
        for one in requests:
            futures.append(Future())
            try:
                futures[-1].set_result(act[function.partition(":")[2]](one))
            except (PeftRegressError, KeyboardInterrupt) as error:
                futures[-1].set_exception(error)
        return futures

    def stop(self):
        pass

    def begin(self, _):
        return Begun(absent=self.absent, packages=dict(PACKAGES))

    def live(self, one):
        return self.outcomes.get(msgspec.json.encode(one.example), Outcome())

    def seek(self, request):
        self.requests.append(request)
        self.on_seek()
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
        ([], ("--seed", "5"), 0, ("0 new findings", "seed 5")),
        ([], (), 0, ("no known defects of 'lora' in fuzz/corpus: all that is found is new",)),
        ([ONE], JOB, 1, ("1 new finding", f"accept runs/fuzz/{ONE.name}.json")),
        ([ONE, ONE], ("--jobs", "2"), 1, ("1 new finding",)),
        ([FAILED_SEARCH], JOB, 3, ("a search failed: KeyError",)),
        (
            [*SAME, OTHER],
            JOB,
            1,
            ("1. loha, lora on linear: TypeError after merging", "2. lora on linear"),
        ),
    ],
)
def test_a_search_says_what_came_of_it(world, answers, arguments, code, said):
    world.answers = [*answers]
    done = world.search(*arguments)
    assert done.code == code
    assert all(part in done.text for part in said)
    assert " 3. " not in done.text
    assert len({one.seed for one in world.requests}) == len(world.requests) > 1


def test_a_finding_is_on_disk_and_known_before_the_search_goes_on(world):
    world.answers = [ONE]
    there = []
    world.on_seek = lambda: there.append(world.path.exists())
    world.search(*JOB)
    assert there[:2] == [False, True]
    assert [len(one.known) for one in world.requests[:2]] == [0, 1]
    stored = read_finding(world.path)
    assert (stored.example, stored.packages) == (ONE.example, PACKAGES)


def test_a_wider_cause_replaces_a_narrower_one_and_a_smaller_example_stays(world):
    world.answers = [OTHER, ONE]
    world.search(*JOB)
    assert [*world.save.iterdir()] == [world.path]
    larger = finding(example(network={"seed": 12345678}))
    assert larger.cause == ONE.cause
    for stored, found in ((ONE, larger), (larger, ONE)):
        write_finding(world.save, stored)
        world.answers = [found]
        assert world.search(*JOB).code == 1
        assert read_finding(world.path).example == ONE.example


def test_a_known_defect_is_listed_by_a_replay_and_counted_by_a_search_that_knows_it(world):
    world.accept(ONE)
    world.outcomes = STILL
    assert ONE.name in world.replay().out
    done = world.search()
    assert done.code == 0
    assert "1 still there" in done.out
    assert ONE.name not in done.out
    assert world.requests[0].known == (ONE.cause,)


def test_a_mended_defect_is_told_and_can_be_accepted_as_mended(world):
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
        (
            [finding(example(one), CRASH) for one in KINDS],
            [Outcome(failure=CRASH)] * 5,
            0,
            ["5 still there"],
        ),
        ([ONE, OTHER], KeyboardInterrupt, 3, ["2 not replayed", "interrupted"]),
    ],
    ids=["nothing", "otherwise", "refused", "known deaths", "interrupted"],
)  # fmt: skip
def test_a_replay_says_in_which_state_entries_are(  # noqa: PLR0917
    world, monkeypatch, known, live, code, said
):
    if known:
        world.accept(*known)
    lived = Mock(side_effect=live)
    monkeypatch.setattr(world, "live", lived)
    done = world.replay()
    assert done.code == code
    assert all(part in done.text for part in said)
    if isinstance(live, list):
        assert lived.call_count == len(live)


@pytest.mark.parametrize(
    ("absent", "methods", "code", "sought"),
    [("lora", "lora", 3, set()), ("dora", "?ora", 0, {("lora",)})],
)
def test_methods_that_the_release_lacks_are_told(world, absent, methods, code, sought):
    world.absent = (absent,)
    done = world.search("--methods", methods)
    assert (done.code, {one.methods for one in world.requests}) == (code, sought)
    assert f"peft 0.21.2 has no {absent}" in done.out


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--methods", "lira"), "unknown method of the fuzzer 'lira'"),
        (("--save", "file/findings"), "file/findings"),
        (("--save", "fuzz/corpus/new"), "lies in the corpus fuzz/corpus"),
        (("--summary", "fuzz/corpus/new"), "lies in the corpus fuzz/corpus"),
    ],
)
def test_wrong_use_is_2_before_the_search(world, tmp_path, arguments, said):
    (tmp_path / "file").write_text("")
    done = world.search(*arguments)
    assert (done.code, world.requests) == (2, [])
    assert said in done.err


def test_a_corpus_of_another_schema_is_2_before_anything_runs(world, tmp_path):
    world.accept(ONE)
    path = tmp_path / "fuzz" / "corpus" / f"{ONE.name}.json"
    path.write_text(path.read_text().replace('"schema_version": 1', '"schema_version": 9'))
    done = world.search()
    assert (done.code, world.requests) == (2, [])
    assert "is no finding: Invalid enum value 9" in done.err


@pytest.mark.parametrize(("answers", "code"), [([ONE], 1), ([], 3)])
def test_an_interrupt_loses_nothing(world, answers, code):
    def interrupt():
        if not world.answers:
            raise KeyboardInterrupt

    world.answers, world.on_seek = [*answers], interrupt
    done = world.search("--minutes", "1", *JOB)
    assert done.code == code
    assert "incomplete: interrupted" in done.out
    assert all(ONE.name in done.out and world.path.exists() for _ in answers)


def test_a_full_disk_is_told_at_once_and_ends_a_search_as_do_searches_that_all_fail(
    world, monkeypatch
):
    world.answers = [FAILED_SEARCH] * 100
    assert world.search(*JOB, "--minutes", "1").code == 3
    assert len(world.requests) < 10
    world.answers, world.requests = [ONE, OTHER], []
    full = Mock(side_effect=InputError("cannot be written (No space left on device)"))
    monkeypatch.setattr(fuzz_module, "write_finding", full)
    done = world.search("--minutes", "1", *JOB)
    assert (done.code, len(world.requests)) == (2, 1)
    assert "No space left" in done.err


@pytest.mark.parametrize("was_begun", [True, False])
def test_a_cluster_that_goes_loses_no_finding_and_no_report(world, monkeypatch, was_begun):
    monkeypatch.setattr(
        search_command, "opened_pool", lambda *_, **__: contextlib.nullcontext(world)
    )
    gone = AbsentError("tcp://10.0.0.5:8786: the Dask scheduler has gone")
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


def test_the_summary_has_scripts_and_json_has_all(world, tmp_path):
    world.answers = [ONE]
    done = world.search("--format", "json", "--summary", "found.md", *JOB)
    value = json.loads(done.out)
    (one,) = value["findings"]
    assert (value["exit_code"], done.code) == (1, 1)
    assert one["name"] == ONE.name
    assert value["counts"]["lives"]["lora"] > 0
    assert value["packages"] == PACKAGES
    text = (tmp_path / "found.md").read_text()
    assert f"```python\n{one['script']}\n```" in text
    assert ONE.name in text
    # One that cannot be written is 2, and the report is shown.
    world.answers = [finding(example(layer("conv1d")))]
    done = world.search("--summary", "found.md/found.md", *JOB)
    assert done.code == 2
    assert "found.md/found.md" in done.err
    assert "1 new finding" in done.out
