"""The nodes of a Dask cluster measure what this machine would, whatever happens to them."""

import asyncio
import contextlib
import random
import re
import socket
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import dask
import msgspec
import pytest
from builders import MACHINE, cases_in, make_record
from dask_clusters import StartedCluster, kill, local_cluster, processes
from fake_interpreters import logged, wait_until, write_worker

from peft_regress.baselines.run_adapters import adapters_of_run
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.cli import options
from peft_regress.errors import AbsentError
from peft_regress.project.project import Project
from peft_regress.project.settings import Settings, read_settings
from peft_regress.runner.measurer import CaseAnswer
from peft_regress.runs.journal import Header, KeptRecord, Line, header_of, journal_of, run_of
from peft_regress.runs.run_file import read_run_file
from peft_regress.runs.schema import Selection
from peft_regress.workers import cluster as cluster_module
from peft_regress.workers.cluster import DaskPool
from peft_regress.workers.node import facts_here, own_code
from peft_regress.workers.pool import NodeError

ROOT = Path(__file__).parents[2]
GLOB = "*/lora-r*/resnet18"
FIRST, SECOND = "shift/lora-r4/resnet18", "unseen/lora-r4/resnet18"


class Cluster:
    """A cluster whose nodes measure by a program, which each test writes anew."""

    def __init__(self, folder, cluster):
        self.python = folder / "python"
        self.dask = cluster
        self.address = cluster.scheduler_address

    def write(self, **how):
        """Write the program; return its path."""
        Path(f"{self.python}.log").unlink(missing_ok=True)
        return write_worker(self.python, **how)


@contextlib.contextmanager
def started(folder):
    """Start two workers."""
    folder.mkdir(exist_ok=True)
    with local_cluster(folder, python=str(folder / "python")) as cluster:
        yield Cluster(folder, cluster)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """Two workers, for all tests that do not harm them."""
    with started(tmp_path_factory.mktemp("cluster")) as cluster:
        yield cluster


@pytest.fixture
def measure(command, tmp_path, monkeypatch):
    """Call the command and return (exit code, stdout, stderr)."""
    monkeypatch.setattr(cluster_module, "_CONNECT_SECONDS", 2.0)

    def call(on, *words, cases=GLOB, save=tmp_path / "run.json", python=None):
        """`python` stands for the interpreter of this machine."""
        base = ["--cases", cases, "--save", save, "--baselines", str(ROOT / "baselines")]
        with monkeypatch.context() as patch:
            patch.setattr(sys, "executable", python or sys.executable)
            code, out, err = command("measure", "--on", on, *base, *words)
        assert "Traceback" not in err
        return code, out, err

    return call


def test_a_run_equals_one_of_this_machine(shared, measure, tmp_path):
    python = shared.write()
    code, out, err = measure(shared.address)
    assert (code, out) == (0, f"{tmp_path}/run.json: 6 cases\n")
    first, *lines = err.splitlines()
    assert first.startswith(f"{shared.address}: 2 workers, dashboard http://")
    assert [line.partition(" ")[0] for line in lines] == [f"[{n}/6]" for n in range(1, 7)]
    assert all(line.endswith(" running)") for line in lines)
    assert len(logged(python, "measure")) == 6
    assert not journal_of(tmp_path / "run.json").exists()
    here = tmp_path / "here.json"
    assert measure("local", save=here, python=python)[0] == 0
    assert read_run_file(tmp_path / "run.json").run == read_run_file(here).run


def test_a_thread_that_runs_a_loop_of_its_own_can_measure(shared, measure):
    async def inside():
        return measure(shared.address, cases="*/lora-r4/resnet18")

    shared.write()
    # In a thread of this test's own: pytest's may run a browser's loop already.
    with ThreadPoolExecutor(1) as thread:
        code, _, err = thread.submit(asyncio.run, inside()).result()
    assert code == 0, err


def test_a_case_that_fails_is_data_and_starts_nothing_again(shared, measure, tmp_path):
    python = shared.write(how={FIRST: "kill", SECOND: "null"})
    code, out, _ = measure(shared.address, cases="*/lora-r4/resnet18")
    assert (code, out) == (0, f"{tmp_path}/run.json: 2 cases, 2 in error\n")
    assert len(logged(python, "measure")) == 2
    run = read_run_file(tmp_path / "run.json").run
    assert {record.error.type for record in run} == {"WorkerLost"}


@pytest.mark.slow
def test_what_came_back_is_on_disk_and_only_the_rest_is_measured(shared, measure, tmp_path):
    python = shared.write(how={"before unseen/lora-r16/resnet18": "refuse"})
    code, _, err = measure(shared.address)
    assert code == 2
    assert re.search(r"error: node [01] \(tcp://127\.0\.0\.1:\d+\): unseen/lora-r16/.*HybridC", err)
    kept = cases_in(journal_of(tmp_path / "run.json"))
    assert kept == read_run_file(tmp_path / "run.json").run.cases.keys()
    python = shared.write()
    code, _, err = measure(shared.address, "--resume", str(tmp_path / "run.json"), python=python)
    assert code == 0
    assert f"{len(kept)} case" in err
    ids = {case.id for case in matrix_cases("default") if case.architecture == "resnet18"}
    wanted = {name for name in ids if "/lora-r" in name}
    assert {request["case"] for _, request in logged(python, "measure")} == wanted - kept
    assert read_run_file(tmp_path / "run.json").run.cases.keys() == wanted


def test_an_interrupt_keeps_what_came_back(shared, measure, tmp_path, monkeypatch):
    python = shared.write(pause=0.3)

    def interrupting(*_, **__):
        def on_record(*_):
            raise KeyboardInterrupt

        return on_record

    with monkeypatch.context() as patch:
        patch.setattr(options, "record_printer", interrupting)
        code, _, err = measure(shared.address)
    assert code == 130
    assert "--resume" in err
    kept = read_run_file(tmp_path / "run.json").run.cases.keys()
    assert 0 < len(kept) < 6
    wait_until(lambda: not shared.dask.scheduler.tasks)
    python = shared.write()
    code, _, err = measure(shared.address, "--resume", str(tmp_path / "run.json"), python=python)
    assert code == 0
    assert f"taken, {6 - len(kept)} measured" in err
    assert len(logged(python, "measure")) == 6 - len(kept)


def kill_later(when):
    """Kill, in a thread, the process that `when` returns as soon as it returns one."""

    def strike():
        wait_until(when)
        kill(when())

    thread = threading.Thread(target=strike)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_task_whose_worker_dies_is_measured_on_another_one(measure, tmp_path):
    with started(tmp_path / "cluster") as cluster:
        python = cluster.write(pause=0.5)
        first = processes(cluster.dask)[0]
        thread = kill_later(lambda: logged(python, "measure") and first)
        code, _, err = measure(cluster.address)
        thread.join()
    assert code == 0, err
    assert len(read_run_file(tmp_path / "run.json").run.cases) == 6


@pytest.mark.slow
def test_a_case_that_no_worker_survives_is_incomplete_and_no_error(measure, tmp_path):
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": 0}),
        started(tmp_path / "cluster") as cluster,
    ):
        python = cluster.write(how={FIRST: "hang"})

        def parent_of_the_hanging():
            """The one that hangs has a child; its parent is Dask's worker."""
            hanging = [process for process, _ in logged(python, "child")]
            return hanging and int(Path(f"/proc/{hanging[0]}/stat").read_text().split()[3])

        thread = kill_later(parent_of_the_hanging)
        code, out, err = measure(cluster.address, cases="*/lora-r[14]/resnet18")
        thread.join()
    assert (code, out) == (3, f"{tmp_path}/run.json: 3 cases\n")
    assert f"{FIRST}: given up after losing 1 node, tcp://127.0.0.1:" in err
    run = read_run_file(tmp_path / "run.json").run
    assert [record.status for record in run] == ["ok"] * 3
    assert not run.selection.complete


BRIEF = ("--time-limit", "60")


@pytest.mark.nightly
def test_killed_workers_change_nothing_in_the_run(tmp_path, measure, monkeypatch):
    # These cases are not to blame.
    monkeypatch.setenv("DASK_DISTRIBUTED__SCHEDULER__ALLOWED_FAILURES", "1000")
    python = write_worker(tmp_path / "python", pause=0.25)
    here = tmp_path / "here.json"
    assert measure("local", "--jobs", "2", *BRIEF, save=here, python=python, cases="*")[0] == 0
    expected = read_run_file(here).run
    draw, left = random.Random(4), [100]

    def strike(cluster):
        while left[0]:
            time.sleep(draw.uniform(0.5, 2.0))
            cluster.replace_worker(draw)
            left[0] -= 1

    with StartedCluster(tmp_path / "cluster", python, workers=4) as cluster:
        thread = threading.Thread(target=strike, args=(cluster,), daemon=True)
        thread.start()
        number = 0
        while left[0]:
            number += 1
            save = tmp_path / f"run{number}.json"
            code, _, err = measure(cluster.address, *BRIEF, save=save, python=python, cases="*")
            assert code == 0, err
            assert read_run_file(save).run == expected
        thread.join()


@pytest.mark.slow
def test_a_killed_scheduler_loses_nothing_and_nothing_is_measured_twice(tmp_path, measure):
    python = write_worker(tmp_path / "python", pause=0.25)
    glob = "shift/*/resnet18"
    here = tmp_path / "here.json"
    assert measure("local", "--jobs", "2", *BRIEF, save=here, python=python, cases=glob)[0] == 0
    expected = read_run_file(here).run
    begun = len(logged(python, "measure"))
    save = tmp_path / "run.json"

    def strike(cluster):
        wait_until(lambda: journal_of(save).exists() and len(cases_in(journal_of(save))))
        cluster.scheduler.kill()

    with StartedCluster(tmp_path / "one", python, workers=2) as cluster:
        thread = threading.Thread(target=strike, args=(cluster,))
        thread.start()
        code, _, err = measure(cluster.address, *BRIEF, save=save, python=python, cases=glob)
        thread.join()
    assert code == 3
    assert f"{cluster.address}: the Dask scheduler has gone" in err
    kept = cases_in(journal_of(save))
    assert kept
    before = [request["case"] for _, request in logged(python, "measure")[begun:]]
    with StartedCluster(tmp_path / "two", python, workers=2) as cluster:
        words = [*BRIEF, "--resume", str(save)]
        code, _, err = measure(cluster.address, *words, save=save, python=python, cases=glob)
    assert code == 0, err
    assert read_run_file(save).run == expected
    again = [request["case"] for _, request in logged(python, "measure")[begun:]][len(before) :]
    assert set(again) == expected.cases.keys() - kept


@pytest.mark.nightly
def test_a_real_run_equals_one_of_this_machine_with_its_adapters(tmp_path, measure):
    runs = []
    with local_cluster(tmp_path, workers=1) as cluster:
        for on in ("local", cluster.scheduler_address):
            save = tmp_path / str(len(runs)) / "run.json"
            code, _, err = measure(on, save=save, cases="shift/lora-r1/shufflenet_v2_x0_5")
            assert code == 0, err
            kept = adapters_of_run(save)
            files = {path.relative_to(kept): path.read_bytes() for path in kept.rglob("*.*")}
            runs.append((read_run_file(save).run, files))
    here, there = runs
    assert here == there
    assert len(here[1]) >= 2


ANSWER = CaseAnswer(
    definition="d",
    where="n",
    header=Header(environment={"peft": "1"}, machine=MACHINE, metrics_known=[]),
    kept=KeptRecord(record=make_record(FIRST)),
)


def taken(result):
    """Return what comes of a task that Dask has done."""
    client = SimpleNamespace(status="running", who_has=lambda _: {"key": ["tcp://b:2"]})
    pool = DaskPool("tcp://a:1", client, say=print)
    work = cluster_module._Work("", FIRST, "key", CaseAnswer)
    pool._take(work, SimpleNamespace(result=result))
    return work.future.result(timeout=0)


ODD_NAMES = [
    *("../x.json", "/etc/x.json", "a/b.json", ".x.json", "x.py", "x.json\\n", "x\\u0000.json")
]


def test_an_answer_that_is_no_result_names_the_node():
    answer = msgspec.json.encode(ANSWER).decode()
    assert taken(lambda timeout: answer) == ANSWER
    wrong = answer.replace('{"peft":"1"}', '{"../x":"1"}')
    deep = answer.replace('"times":null', f'"times":{{"a":{"[" * 100_000}')
    placed = [answer.replace('"adapter":{}', f'"adapter":{{"{name}":""}}') for name in ODD_NAMES]
    tries = [("text", "malformed"), (None, "bytes-like"), (deep, "recursion")]
    for text, problem in (*tries, *((text, "regex") for text in (wrong, *placed))):
        assert text != answer
        with pytest.raises(NodeError, match=rf"^tcp://b:2: .*{FIRST} is no result.*{problem}"):
            taken(lambda timeout, text=text: text)


class _Pickled:
    """A result that would run code here."""

    def __reduce__(self):
        return (_unpickled, ())


def _unpickled():
    pytest.fail("a result was unpickled")


def test_a_result_is_not_unpickled(shared):
    with contextlib.closing(cluster_module._client(shared.address)) as client:
        future = client.submit(_Pickled, pure=False)
        with pytest.raises(NodeError, match="only able to deserialize"):
            taken(future.result)


def _babble(server):
    with server.accept()[0] as connection:
        connection.sendall(b"HTTP/1.1 400 Bad Request\r\n")


@pytest.mark.parametrize(
    ("address", "code", "problem"),
    [
        ("node:8786", 2, "is neither `local` nor the address of a Dask scheduler"),
        ("tcp://10.0.0.5", 2, "such as tcp://10.0.0.5:8786"),
        ("tcp://127.0.0.1:9", 3, "no Dask scheduler answers there"),
        ("silent", 3, "no Dask scheduler answers there (TimeoutError)"),
        ("babbling", 3, "no Dask scheduler answers there"),
    ],
)
def test_an_address_without_a_scheduler_is_one_line(measure, address, code, problem):
    # The system accepts connections for a server that does not.
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor() as threads:
        port = f"tcp://127.0.0.1:{server.getsockname()[1]}"
        if address == "babbling":
            threads.submit(_babble, server)
        found, out, err = measure(port if address in {"silent", "babbling"} else address)
    assert (found, out, err.count("\n")) == (code, "", 1)
    assert problem in err


def pool_of(workers, **more):
    """Return a pool over nodes as Dask describes them."""
    client = SimpleNamespace(
        status="running",
        wait_for_workers=lambda *_, **__: None,
        scheduler_info=lambda **_: {"workers": workers},
        **more,
    )
    return DaskPool("tcp://a:1", client, say=print)


def test_a_cluster_without_a_slot_is_refused_with_what_to_start():
    pool = pool_of({"tcp://a:2": {"resources": None}})
    with pytest.raises(AbsentError, match=r'`dask worker tcp://a:1 .* "slot=1"`$'):
        pool.prepare(None)


def test_without_dask_it_names_the_extra(measure, monkeypatch):
    monkeypatch.setattr(options, "find_spec", lambda _: None)
    code, _, err = measure("tcp://127.0.0.1:9")
    assert code == 2
    assert "pip install 'distributed>=2025.3'" in err


@pytest.mark.parametrize(
    ("fact", "value", "problem"),
    [
        (
            "package peft",
            "0.1",
            rf"package peft is {version('peft')} there and 0\.1 here; make both",
        ),
        ("package more", "1", "package more is absent there and 1 here"),
        ("code peft_regress/__init__.py", "ab", "code peft_regress/__init__.py is .* and ab here"),
        ("module gates", "ab", "module gates is absent there and ab here"),
        ("file sources/new", "ab", "file sources/new is absent there"),
    ],
)
def test_a_node_that_lacks_something_is_refused_by_name(shared, measure, fact, value, problem):
    shared.write()
    here = cluster_module.facts_here
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cluster_module, "facts_here", lambda *of: {**here(*of), fact: value})
        code, _, err = measure(shared.address)
    assert (code, err.count("\n")) == (2, 1)
    assert re.search(rf"error: node [01] \(tcp://127\.0\.0\.1:\d+\): {problem}", err), err


def test_a_run_is_of_the_machine_that_measured_most_and_records_name_others():
    other = msgspec.structs.replace(MACHINE, digest="sha256:01", cpu="Another CPU")
    lines = [
        Line(
            header=Header(environment={"peft": "1"}, machine=machine, metrics_known=[]),
            kept=KeptRecord(record=make_record(name, {"forward_flops": 1})),
        )
        for name, machine in (("a/b/c", MACHINE), ("a/b/d", other), ("a/b/e", other))
    ]
    run = run_of(lines, header_of(lines), Selection(complete=True))
    assert run.machine == other
    assert run.cases["a/b/c"].machine == MACHINE
    assert run.cases["a/b/d"].machine is msgspec.UNSET


@pytest.fixture
def own(project):
    """A project whose cases import a package of the user's own below `src`."""
    assert project.run("init").code == 0
    cases = (project.folder / "gates" / "cases.py").read_text()
    cases = cases.replace("import torch\n", "import ours\nimport torch\n")
    return project.write({"src/ours/__init__.py": "WIDTH = 32\n", "gates/cases.py": cases})


def test_a_package_below_src_comes_before_an_installed_one(own, monkeypatch):
    folder = own.folder
    monkeypatch.syspath_prepend(folder / "src")
    current = Project()
    current.settings = read_settings(folder)
    found = own_code(current)
    assert found.modules == ["gates", "gates.cases", "ours"]
    assert [Path(one) for one in found.search] == [folder, folder / "src"]
    here = facts_here(folder, (), found)
    own.write({"site-packages/ours/__init__.py": "WIDTH = 64\n"})
    monkeypatch.setattr(sys, "path", [str(folder / "site-packages"), *sys.path])
    sys.modules.pop("ours", None)
    assert facts_here(folder, (), found) == here
    (folder / "src" / "ours" / "__init__.py").unlink()
    assert facts_here(folder, (), found)["module ours"] != here["module ours"]
    own.write({"pyproject.toml": ""})
    name = f"file {folder / 'pyproject.toml'}"
    assert facts_here(folder, (), found)[name] != here[name]
    current.settings = Settings(folder=folder, baselines=folder)
    assert own_code(current) is None


def test_the_process_of_a_node_finds_own_cases_where_they_lie_and_a_package_below_src(
    shared, own, monkeypatch
):
    monkeypatch.syspath_prepend(own.folder / "src")
    python = shared.write()
    code, _, err = own.run("measure", "--on", shared.address, "--save", "run.json")
    assert code == 0, err
    ((_, started),) = logged(python, "started")
    assert "PYTHONPATH" in started["variables"]
    ((_, request),) = logged(python, "prepare")
    assert request["folder"] == str(own.folder)


@pytest.mark.parametrize(("uses", "code"), [(version("pytest"), 0), ("0.1", 2)])
def test_a_case_that_uses_another_version_on_a_node_is_refused(shared, measure, uses, code):
    shared.write(uses={"pytest": uses})
    found, _, err = measure(shared.address, cases=FIRST)
    assert found == code, err
    assert (f"uses pytest 0.1 there, and {version('pytest')} here" in err) == bool(code)


def test_a_node_that_dies_while_nodes_prepare_is_left_out():
    plugins = []

    def register_plugin(node, **_):
        plugins.append(node)
        if len(plugins) == 1:
            raise OSError("Stream is closed")

    pool = pool_of(
        {name: {"resources": {"slot": 1}} for name in ("dead", "alive")},
        register_plugin=register_plugin,
        run=lambda *_, **_kept: {"dead": OSError("Timed out"), "alive": ""},
    )
    pool.prepare("node")
    assert (plugins, pool.slots) == (["node", "node"], 1)
