"""`search --on`: the nodes of a Dask cluster search, whatever happens to them."""

from __future__ import annotations

import contextlib
import json
import re
import sys
import threading
from concurrent.futures import Future
from pathlib import Path

import pytest
from dask_clusters import kill, local_cluster, processes
from fake_interpreters import wait_until
from fuzz_examples import PACKAGES

from peft_fuzz.cli import main
from peft_fuzz.search import cluster_search
from peft_fuzz.search.cluster_search import RemoteLifeWorker, SearchResult, SearchTask, search_there
from peft_fuzz.search.messages import Begun, Counts, Seek, Sought
from peft_regress.cli import options
from peft_regress.workers import cluster as cluster_module
from peft_regress.workers.pool import Environment, GivenUpError, NodeError, Seat
from peft_regress.workers.process import RequestRefusedError, WorkerError

CORPUS = Path(__file__).parents[1] / "corpus"
SEEK = Seek(methods=("lora",), seed=1, seconds=0.1, shrink_seconds=0.1)


@pytest.fixture
def fuzz(capsys, tmp_path, monkeypatch):
    """Call the command and return (exit code, stdout, stderr)."""
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 2.0)
    base = ["--save", tmp_path / "found", "--corpus", CORPUS, "--format", "json"]

    def call(on: str, *words):
        with pytest.raises(SystemExit) as end:
            main(["search", "--on", on, "--seed", "1", "--no-ranges", *map(str, base), *words])
        out, err = capsys.readouterr()
        code = end.value.code or 0
        assert "Traceback" not in err
        return code, out, err

    return call


@pytest.mark.parametrize(
    ("address", "code", "problem"),
    [
        ("node:8786", 2, "is neither `local` nor the address of a Dask scheduler"),
        ("tcp://127.0.0.1:9", 3, "no Dask scheduler answers there"),
    ],
)
def test_an_address_without_a_scheduler_is_one_line(fuzz, address, code, problem):
    found, out, err = fuzz(address)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert problem in err


def test_without_dask_it_names_the_extra(fuzz, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    code, _, err = fuzz("tcp://127.0.0.1:9")
    assert code == 2
    assert "pip install 'peft-regress[cluster]'" in err


@pytest.mark.nightly
def test_nodes_search_and_one_that_dies_loses_no_slice(fuzz, tmp_path):
    with local_cluster(tmp_path, workers=2) as cluster:

        def strike() -> None:
            wait_until(lambda: any("search_there" in str(key) for key in cluster.scheduler.tasks))
            kill(processes(cluster)[0])

        thread = threading.Thread(target=strike)
        thread.start()
        words = ["--methods", "lora", "--minutes", "0.4"]
        code, out, err = fuzz(cluster.scheduler_address, *words)
        thread.join()
    assert code in {0, 1}, err
    first, *_ = err.splitlines()
    assert re.match(r"tcp://127\.0\.0\.1:\d+: 2 workers, dashboard http://", first)
    assert re.search(r"min left, \d running", err)
    assert json.loads(out)["counts"]["lives"]["lora"] > 100


# --- a worker that stands for nodes --------------------------------------------------------------


class Nodes:
    """A pool whose nodes answer with `results`; errors are raised, None is never answered."""

    def __init__(self, *results) -> None:
        self.results = list(results)
        self.tasks: list[SearchTask] = []

    def submit(self, environment, function, requests, answer) -> list[Future]:
        assert function == "peft_fuzz.search.cluster_search:search_there"
        self.tasks += requests
        future, result = Future(), self.results.pop(0)
        if isinstance(result, Exception):
            future.set_exception(result)
        elif result is not None:
            future.set_result(result)
        return [future]


TASK = SearchTask(methods=("lora",), life_seconds=60)
SOUGHT = Sought(counts=Counts(lives={"lora": 7}))
BEGUN = Begun(absent=(), packages=PACKAGES)


@contextlib.contextmanager
def remote(*results):
    nodes = Nodes(*results)
    with RemoteLifeWorker(nodes, Environment(python=Path(sys.executable)), TASK) as worker:
        yield nodes, worker


def test_it_begins_and_seeks_like_a_worker_of_this_machine():
    with remote(SearchResult(begun=BEGUN), SearchResult(sought=SOUGHT)) as (nodes, worker):
        assert worker.begin() == BEGUN
        assert worker.seek(SEEK) == SOUGHT
    assert [task.seek for task in nodes.tasks] == [None, SEEK]


@pytest.mark.parametrize(
    ("raised", "kind", "message"),
    [
        (GivenUpError("4 nodes were lost"), RequestRefusedError, "a slice was given up: 4 nodes"),
        (RequestRefusedError("node 1: KeyError: 'x'"), RequestRefusedError, "node 1: KeyError"),
        (NodeError("node n: has no hypothesis"), NodeError, "node n: has no hypothesis"),
    ],
)
def test_why_there_is_no_answer_is_said(raised, kind, message):
    with remote(raised) as (_, worker), pytest.raises(kind, match=message):
        worker.seek(SEEK)


def test_one_that_waits_for_a_node_can_be_stopped():
    with remote(None) as (_, worker):
        threading.Timer(0.2, worker.stop).start()
        with pytest.raises(WorkerError, match="stopped"):
            worker.seek(SEEK)


def test_a_node_without_hypothesis_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setattr(cluster_search, "find_spec", lambda _: None)
    with pytest.raises(NodeError, match=r"has no hypothesis.*pip install peft-fuzz"):
        search_there(Seat(tmp_path, time_limit=60), Environment(python=Path("python")), TASK)
