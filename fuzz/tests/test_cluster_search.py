"""`search --on`: the nodes of a Dask cluster search, whatever happens to them."""

from __future__ import annotations

import contextlib
import json
import re
import threading
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from dask_clusters import kill, local_cluster, processes
from fake_interpreters import wait_until
from fuzz_examples import PACKAGES

from peft_fuzz.cli import main
from peft_fuzz.search.cluster_search import RemoteLifeWorker, SearchResult, SearchTask
from peft_fuzz.search.search import Counts, Seek, Sought
from peft_fuzz.search.worker import Begun
from peft_regress.upgrades.cluster import cluster as cluster_module
from peft_regress.upgrades.cluster import connection as connection_module
from peft_regress.upgrades.cluster.attempts import Attempts
from peft_regress.upgrades.cluster.connection import NodeError
from peft_regress.upgrades.cluster.messages import Problem
from peft_regress.workers.process import RequestRefusedError, WorkerError

CORPUS = Path(__file__).parents[1] / "corpus"
SEEK = Seek(methods=("lora",), seed=1, seconds=0.1, shrink_seconds=0.1)


@pytest.fixture
def fuzz(capsys, tmp_path, monkeypatch):
    """Call the command and return (exit code, stdout, stderr)."""
    monkeypatch.setattr(connection_module, "_CONNECT_SECONDS", 2.0)
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
    monkeypatch.setattr(cluster_module, "find_spec", lambda _: None)
    code, _, err = fuzz("tcp://127.0.0.1:9")
    assert code == 2
    assert "pip install 'peft-regress[cluster]'" in err


@pytest.mark.nightly
def test_nodes_search_and_one_that_dies_loses_no_slice(fuzz, tmp_path):
    with local_cluster(tmp_path, workers=2) as cluster:

        def strike() -> None:
            wait_until(lambda: any("-lora-" in str(key) for key in cluster.scheduler.tasks))
            kill(processes(cluster)[0])

        thread = threading.Thread(target=strike)
        thread.start()
        words = ["--methods", "lora", "--minutes", "0.4"]
        code, out, err = fuzz(cluster.scheduler_address, *words)
        thread.join()
    assert code in {0, 1}, err
    first, *_ = err.splitlines()
    assert re.match(r"tcp://127\.0\.0\.1:\d+: 2 workers, dashboard http://", first)
    assert re.search(r"min left, \d running, 1 lost", err)
    assert json.loads(out)["counts"]["lives"]["lora"] > 100


# --- a worker that stands for nodes --------------------------------------------------------------


class Future:
    """A task that has ended, or whose node has gone."""

    def __init__(self, result: SearchResult | None) -> None:
        self.status = "lost" if result is None else "finished"
        self.message = msgspec.json.encode(result).decode()

    def done(self) -> bool:
        return self.status == "finished"

    def result(self, timeout: float) -> str:
        return self.message

    def cancel(self) -> None:
        pass


class Cluster:
    """One node that is free; `results` are what its tasks give, None if it dies of them."""

    def __init__(self, *results: SearchResult | None, is_free: bool = True) -> None:
        self.results = list(results)
        self.tasks: list[SearchTask] = []
        self.free = is_free
        self.attempts = Attempts()
        self.connection = SimpleNamespace(in_use=contextlib.nullcontext)
        self.slots = SimpleNamespace(
            enter=lambda *_: 1,
            leave=lambda _: None,
            want=lambda _, *, more: None,
            take=lambda _: "node" if self.free else None,
            give_back=lambda *_: None,
            has=lambda _: False,  # asked only while a task has not ended
        )

    def check(self) -> None:
        pass

    def new_key(self, environment: str, what: str) -> str:
        return f"{environment}-{what}"

    def submit(self, task, node, key) -> Future:
        assert node == "node"
        assert key
        self.tasks.append(task)
        return Future(self.results.pop(0))


TASK = SearchTask(planned=[], methods=("lora",), life_seconds=60, pip_seconds=60)
SOUGHT = Sought(counts=Counts(lives={"lora": 7}))
BEGUN = Begun(absent=(), packages=PACKAGES, file="peft/__init__.py")


@contextlib.contextmanager
def remote(*results, **how):
    cluster = Cluster(*results, **how)
    with RemoteLifeWorker(cluster, TASK) as worker:
        yield cluster, worker


def test_it_begins_and_seeks_like_a_worker_of_this_machine():
    results = [SearchResult(node="n", begun=BEGUN), SearchResult(node="n", sought=SOUGHT)]
    with remote(*results) as (cluster, worker):
        assert worker.begin() == BEGUN
        assert worker.seek(SEEK) == SOUGHT
    assert [task.seek for task in cluster.tasks] == [None, SEEK]
    assert (cluster.attempts.running, cluster.attempts.lost) == (0, 0)


def test_a_slice_whose_node_dies_starts_again_with_its_seed():
    with remote(None, None, SearchResult(node="n", sought=SOUGHT)) as (cluster, worker):
        assert worker.seek(SEEK) == SOUGHT
    assert [task.seek for task in cluster.tasks] == [SEEK] * 3
    assert (cluster.attempts.running, cluster.attempts.lost) == (0, 2)


def test_a_slice_that_no_node_survives_is_given_up():
    with remote(*[None] * 4) as (_, worker), pytest.raises(RequestRefusedError) as problem:
        worker.seek(SEEK)
    assert str(problem.value) == "a slice of lora was given up after losing 4 nodes"


def test_a_search_that_fails_names_the_node():
    failed = SearchResult(node="1 (tcp://10.0.0.5:1)", refused="KeyError: 'x'")
    with remote(failed) as (_, worker), pytest.raises(RequestRefusedError) as problem:
        worker.seek(SEEK)
    assert str(problem.value) == "node 1 (tcp://10.0.0.5:1): KeyError: 'x'"


def test_a_node_that_cannot_search_is_named():
    lacking = Problem(text="has no hypothesis", of="node")
    result = SearchResult(node="n", problem=lacking)
    with remote(result) as (_, worker), pytest.raises(NodeError, match="node n: has no hypo"):
        worker.begin()


def test_one_that_waits_for_a_node_can_be_stopped():
    with remote(is_free=False) as (cluster, worker):
        thread = threading.Timer(0.2, worker.stop)
        thread.start()
        with pytest.raises(WorkerError, match="stopped"):
            worker.seek(SEEK)
    assert not cluster.tasks
