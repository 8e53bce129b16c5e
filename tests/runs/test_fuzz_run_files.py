"""Any damage to a run file: refused in one line that names the file, or judged like any other."""

import contextlib
import json
import tempfile
from pathlib import Path

from builders import LORA, make_document, rich_run, run_document
from command_words import call_command
from hypothesis import strategies as st
from strategies import fuzz

from peft_regress.errors import RunFileError
from peft_regress.runs.run_file import dump_json, read_run_file
from peft_regress.runs.schema import canonical_digest

REMEDIES = ("git checkout", "pip install", "--regress-save", "again")


def read_or_refused(path):
    """Read a file, or check that its refusal names it and a remedy in one printable line."""
    try:
        return read_run_file(path).run
    except RunFileError as error:
        refusal = error
    assert str(refusal).isprintable()
    assert str(refusal).startswith(f"{path}: ")
    assert any(remedy in refusal.remedy for remedy in REMEDIES)
    return None


WRITTEN = dump_json(run_document(rich_run(), make_document(rich_run())))
VALUES = (
    *(None, True, -1, 0, 1, 0.3, 2.5, 1e99, 1e308, 10**25, 10**400, -0.0),
    *("", "ok", "info", "baseline", LORA, [], {}, [[]], [1.0] * 3, {"a": 1}),
)


def spots(value):
    """Return every (container, key) in a JSON value."""
    pairs = list(value.items() if isinstance(value, dict) else enumerate(value))
    inner = [spot for _, item in pairs if isinstance(item, dict | list) for spot in spots(item)]
    return [(value, key) for key, _ in pairs] + inner


def edit(document, data):
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


@fuzz(st.data(), examples=200)
def test_whatever_is_signed_is_refused_or_judged(data):
    """An edit that fits its digest cannot be told from a run, but must never give a traceback."""
    document = json.loads(WRITTEN)
    edit(document, data)
    with tempfile.TemporaryDirectory() as folder:
        path, whole = Path(folder) / "run.json", Path(folder) / "whole.json"
        path.write_text(json.dumps(document))
        whole.write_text(WRITTEN)
        read = read_or_refused(path)
        output = data.draw(st.sampled_from(["text", "json", "markdown"]))
        for sides in ((path, whole), (whole, path)):
            code, out, err = call_command("compare", *sides, "--format", output)
            if read is None:
                assert (code, out, err.count("\n")) == (2, "", 1)
            else:
                assert code in (1, 3)  # the run is a partial one, which is never a pass
                assert out
                assert not err
        words = ("accept", path, "--reason", "r", "--baselines", path.parent / "b")
        code, _, err = call_command(*words)
        assert code == (2 if read is None or not read.cases else 0), err
