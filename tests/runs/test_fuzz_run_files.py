"""Any damage to a run file: refused in one line that names the file, or read as it was written."""

from __future__ import annotations

import contextlib
import io
import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import pytest
from builders import FULL, GALORE, LORA, UNSEEN_LORA, accept, make_document, rich_run, write_run
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from strategies import fuzz, runs

from peft_regress.baselines.named_runs import load_references
from peft_regress.cli.main import main
from peft_regress.errors import InputError, RunFileError
from peft_regress.runs.json_layout import dump_json
from peft_regress.runs.run_file import read_run, read_run_file, run_document
from peft_regress.runs.schema import Acceptance, Run, canonical_digest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

DATE = "2026-01-01T00:00:00+00:00"


def text_of(run: Run) -> str:
    return dump_json(run_document(run, make_document(run)))


def read_back(run: Run) -> Run:
    """Return a run as reading its file gives it: with its digest."""
    digest = run_document(run, {})["peft_regress"]["content_digest"]
    return msgspec.structs.replace(run, content_digest=digest)


@contextlib.contextmanager
def file_of(content: bytes) -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "run.json"
        path.write_bytes(content)
        yield path


REMEDIES = ("git checkout", "pip install", "--regress-save", "again")


def read_or_refused(path: Path) -> Run | None:
    """Read a file, or check that its refusal names it and a remedy in one printable line."""
    try:
        return read_run_file(path).run
    except RunFileError as error:
        refusal = error
    assert str(refusal).isprintable()
    assert str(refusal).startswith(f"{path}: ")
    assert any(remedy in refusal.remedy for remedy in REMEDIES)
    return None


def command(*arguments: object) -> tuple[int, str, str]:
    """Call the command in this process and return (exit code, stdout, stderr)."""
    out, err = io.StringIO(), io.StringIO()
    with (
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
        pytest.raises(SystemExit) as stopped,
    ):
        main([str(argument) for argument in arguments])
    return int(stopped.value.code or 0), out.getvalue(), err.getvalue()


# --- the text of a file ---------------------------------------------------------------------

WRITTEN = text_of(rich_run())
READ = read_back(rich_run())
OTHER = text_of(
    msgspec.structs.replace(
        rich_run(),
        environment={"peft": "0.1"},
        accepted=Acceptance(reason="r", date=DATE, role="baseline", entry="Linux/0001_x"),
    )
)
TOKENS = (
    "NaN", "-Infinity", "-1", "1e400", "1" * 30, "1" * 5000, '"x"', "null", "true", "{}", "[]", "0",
    "0.1", "-0.0", '"\\ud800"', '"\\n"', "\x1b", "//", "'",
)  # fmt: skip

places = st.floats(0, 1, exclude_max=True)
"""A place in a text, as a share of its length."""


def at(place: float, length: int) -> int:
    return int(place * length)


def change_bytes(text: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    start = at(draw(places), len(text))
    end = start + draw(st.sampled_from([0, 1, 2, 50, 5000]))
    return text[:start] + draw(st.text(max_size=3) | st.sampled_from(TOKENS)) + text[end:]


def change_number(text: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    """Put a token in the place of the number after some colon."""
    colon = text.find(": ", at(draw(places), len(text)))
    end = min(i for i in (text.find(c, colon) for c in ",}\n") if i >= 0) if colon >= 0 else -1
    return text if end < 0 else text[: colon + 2] + draw(st.sampled_from(TOKENS)) + text[end:]


def move_lines(text: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    lines = text.splitlines(keepends=True)
    start = at(draw(places), len(lines))
    block = lines[start : start + draw(st.integers(1, 30))]
    rest = lines[:start] + lines[start + len(block) :]
    if draw(st.booleans()):
        rest = lines  # kept as well: a block that stands twice
    goal = at(draw(places), len(rest))
    return "".join(rest[:goal] + block + rest[goal:])


def leave_in_conflict(text: str, draw: Callable[[st.SearchStrategy[Any]], Any]) -> str:
    lines, other = text.splitlines(keepends=True), OTHER.splitlines(keepends=True)
    start, count = at(draw(places), len(lines)), draw(st.integers(0, 20))
    ours, theirs = lines[start : start + count], other[start : start + count]
    marked = ["<<<<<<< HEAD\n", *ours, "=======\n", *theirs, ">>>>>>> theirs\n"]
    # Half resolved: some of the three markers are left.
    left = draw(st.sets(st.sampled_from("<=>"), min_size=1))
    kept = [line for line in marked if line[:1] * 7 != line[:7] or line[0] in left]
    return "".join(lines[:start] + kept + lines[start + count :])


DAMAGES = (change_bytes, change_number, move_lines, leave_in_conflict)


def damaged(data: st.DataObject) -> str:
    text = WRITTEN
    for damage in data.draw(st.lists(st.sampled_from(DAMAGES), min_size=1, max_size=3)):
        text = damage(text, data.draw)
    return text


@fuzz(st.data(), examples=700)
def test_whatever_happens_to_the_text_the_file_is_refused_or_what_was_written(
    data: st.DataObject,
) -> None:
    with file_of(damaged(data).encode("utf-8", "surrogatepass")) as path:
        assert read_or_refused(path) in (None, READ)


@fuzz(st.data(), examples=150)
def test_a_file_with_a_marker_of_a_conflict_is_refused_for_that(data: st.DataObject) -> None:
    with file_of(leave_in_conflict(WRITTEN, data.draw).encode()) as path:
        assert read_or_refused(path) is None
        _, _, err = command("compare", path, path)
        assert re.search(r"conflict markers \(line \d+\).*git checkout.*peft-regress accept", err)


@fuzz(st.data(), st.booleans(), examples=150)
def test_compare_with_a_damaged_file_is_exit_2_and_one_line(
    data: st.DataObject, is_old: bool
) -> None:
    text = damaged(data)
    with file_of(text.encode("utf-8", "surrogatepass")) as path:
        whole = path.with_name("whole.json")
        whole.write_text(WRITTEN)
        sides = (path, whole) if is_old else (whole, path)
        code, out, err = command("compare", *sides)
        if read_or_refused(path) is None:
            assert (code, out) == (2, "")
            assert err.startswith(f"error: {path}: ")
            assert err.count("\n") == 1
            with pytest.raises(InputError):
                load_references(path.parent, str(path))
        else:
            assert code == command("compare", whole, whole)[0]


SUITE = """
import pytest
from peft_regress import case_params

@pytest.mark.parametrize("case", case_params())
def test_case(case, peft_regress):
    raise AssertionError("measured")
"""


@pytest.mark.slow
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "named"])
def test_pytest_stops_at_a_damaged_baseline_before_it_measures(
    pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, stored: bool
) -> None:
    for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT", "PYTEST_XDIST_TESTRUNUID"):
        monkeypatch.delenv(name, raising=False)
    pytester.makepyfile(SUITE)
    path = pytester.path / ("baselines/Linux/0001_x.json" if stored else "bad.json")
    path.parent.mkdir(parents=True, exist_ok=True)
    options = [] if stored else ["--regress-baseline=bad.json"]

    @settings(deadline=None, derandomize=True, max_examples=15)
    @given(st.data())
    def holds(data: st.DataObject) -> None:
        path.write_bytes(damaged(data).encode("utf-8", "surrogatepass"))
        assume(read_or_refused(path) is None)
        done = pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)
        assert done.ret == pytest.ExitCode.USAGE_ERROR
        errors = [line for line in done.errlines if line]
        assert len(errors) == 1
        assert errors[0].startswith(f"ERROR: {path if stored else path.name}: ")
        assert "measured" not in done.stdout.str()

    holds()


# --- content under a digest that fits -------------------------------------------------------


VALUES = (
    *(None, True, -1, 0, 1, 0.3, 2.5, 1e99, 1e308, 10**25, 10**400, -0.0),
    *("", "ok", "info", "baseline", LORA, [], {}, [[]], [1.0] * 3, {"a": 1}),
)


def spots(value: Any) -> list[tuple[Any, Any]]:
    """Return every (container, key) in a JSON value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    inner = [spot for _, item in pairs if isinstance(item, dict | list) for spot in spots(item)]
    return [(value, key) for key, _ in pairs] + inner


def edit(document: dict[str, Any], data: st.DataObject) -> None:
    """Change, remove, rename or copy something, and sign what comes of it."""
    ours = document["peft_regress"]
    for _ in range(data.draw(st.integers(1, 3))):
        found = spots(ours)
        container, key = found[data.draw(st.integers(0, len(found) - 1))]
        how = data.draw(st.sampled_from(["change", "change", "remove", "rename", "copy"]))
        if how == "remove":
            del container[key]
        elif how == "rename" and isinstance(container, dict):
            container[data.draw(st.text(max_size=5) | st.sampled_from([LORA, "loss"]))] = (
                container.pop(key)
            )
        elif how == "copy":
            source, name = found[data.draw(st.integers(0, len(found) - 1))]
            container[key] = json.loads(json.dumps(source[name]))
        else:
            container[key] = data.draw(st.sampled_from(VALUES) | st.text(max_size=3))
    content = {name: value for name, value in ours.items() if name != "content_digest"}
    with contextlib.suppress(UnicodeEncodeError):
        ours["content_digest"] = canonical_digest(content)


@fuzz(st.data(), examples=400)
def test_whatever_is_signed_is_refused_or_judged(data: st.DataObject) -> None:
    """An edit that fits its digest cannot be told from a run, but must never give a traceback."""
    document = json.loads(WRITTEN)
    edit(document, data)
    with file_of(json.dumps(document).encode()) as path:
        whole = path.with_name("whole.json")
        whole.write_text(WRITTEN)
        read = read_or_refused(path)
        output = data.draw(st.sampled_from(["text", "json", "markdown"]))
        for sides in ((path, whole), (whole, path)):
            code, out, err = command("compare", *sides, "--format", output)
            if read is None:
                assert (code, out, err.count("\n")) == (2, "", 1)
            else:
                assert code in (1, 3)  # the run is a partial one, which is never a pass
                assert out
                assert not err
        code, _, err = command("accept", path, "--reason", "r", "--baselines", path.parent / "b")
        assert code == (2 if read is None or not read.cases else 0), err


# --- the same content in another form -------------------------------------------------------


@fuzz(
    runs(),
    st.randoms(use_true_random=False),
    st.sampled_from([None, 0, 4, "\t"]),
    st.sampled_from(["\n", "\r\n", "\r"]),
    st.booleans(),
    examples=150,
)
def test_another_order_or_format_is_the_same_run(
    run: Run, random: Any, indent: Any, line_end: str, ascii_only: bool
) -> None:
    def shuffled(value: Any) -> Any:
        if isinstance(value, dict):
            keys = random.sample(sorted(value), len(value))
            return {key: shuffled(value[key]) for key in keys}
        return [shuffled(item) for item in value] if isinstance(value, list) else value

    document = shuffled(json.loads(text_of(run)))
    text = json.dumps(document, indent=indent, ensure_ascii=ascii_only).replace("\n", line_end)
    with file_of(text.encode()) as path:
        assert read_run_file(path).run == read_back(run)


# --- folders of shards ----------------------------------------------------------------------

IDS = (LORA, UNSEEN_LORA, FULL, GALORE)


def split(run: Run, data: st.DataObject) -> list[Run]:
    """Deal the cases of a run out to shards."""
    count = data.draw(st.integers(1, 4))
    dealt = {name: data.draw(st.integers(0, count - 1)) for name in run.cases}
    parts = [{n: run.cases[n] for n in dealt if dealt[n] == shard} for shard in range(count)]
    return [msgspec.structs.replace(run, cases=part) for part in parts]


def write_shards(folder: Path, shards: list[Run], data: st.DataObject) -> list[Path]:
    names = data.draw(st.permutations([f"{i}.json" for i in range(len(shards))]))
    return [write_run(folder / name, run) for name, run in zip(names, shards, strict=True)]


@fuzz(runs(), st.data(), examples=100)
def test_shards_under_any_names_are_the_run_that_was_split(run: Run, data: st.DataObject) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_shards(folder, split(run, data), data)
        union = read_run(folder).run
        assert dict(union.cases) == dict(sorted(run.cases.items()))
        assert union.environment == run.environment
        assert union.machine == run.machine
        assert union.selection.complete == run.selection.complete
        try:
            stored = accept(folder, root=folder / "b", reason="r", date=DATE)
        except InputError as error:
            # A ledger is drawn by itself, and need not be that of the metrics.
            assert "its ledger adds up to" in str(error)  # noqa: PT017
        else:
            assert read_run_file(stored).run.cases == union.cases
