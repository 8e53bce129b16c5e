"""`search --on`: the nodes of a Dask cluster search, whatever happens to them."""

import json
import re
import threading
from pathlib import Path

import pytest
from dask_clusters import kill, local_cluster, processes
from fake_interpreters import wait_until

from peft_fuzz.cli import main
from peft_regress.workers import cluster as cluster_module

CORPUS = Path(__file__).parents[1] / "corpus"


@pytest.fixture
def fuzz(capsys, tmp_path, monkeypatch):
    """Call the command and return (exit code, stdout, stderr)."""
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 2.0)
    base = ["--save", tmp_path / "found", "--corpus", CORPUS, "--format", "json"]

    def call(on, *words):
        with pytest.raises(SystemExit) as end:
            main(["search", "--on", on, "--seed", "1", *map(str, base), *words])
        out, err = capsys.readouterr()
        assert "Traceback" not in err
        return end.value.code or 0, out, err

    return call


@pytest.mark.nightly
def test_nodes_search_and_one_that_dies_loses_no_slice(fuzz, tmp_path):
    with local_cluster(tmp_path, workers=2) as cluster:

        def strike():
            wait_until(lambda: any("-search-" in str(key) for key in cluster.scheduler.tasks))
            kill(processes(cluster)[0])

        thread = threading.Thread(target=strike)
        thread.start()
        words = ["--methods", "lora", "--minutes", "0.4"]
        code, out, err = fuzz(cluster.scheduler_address, *words)
        thread.join()
    assert code in {0, 1}, err
    first, *_ = err.splitlines()
    assert re.match(r"tcp://127\.0\.0\.1:\d+: 2 workers, dashboard http://", first)
    assert re.search(r"new findings?, \d running", err)
    assert json.loads(out)["counts"]["lives"]["lora"] > 100
