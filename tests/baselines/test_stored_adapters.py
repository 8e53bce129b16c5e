"""Adapters kept beside a run file and stored by `accept`: which, where, never an altered one."""

import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from builders import (
    DATE,
    keep_weights,
    make_case,
    make_record,
    make_run,
    read_runs,
    references_with_drift,
    write_run,
)

from peft_regress.baselines import run_adapters
from peft_regress.baselines.accept import accept_run
from peft_regress.baselines.history import read_entries
from peft_regress.baselines.named_runs import load_references
from peft_regress.baselines.storage import acceptance_of, adapter_folder, baseline_files
from peft_regress.baselines.stored_adapters import stored_adapter
from peft_regress.errors import InputError
from peft_regress.runs.schema import digest_of

BASELINES = Path(__file__).parents[2] / "baselines"

LORA = "shift/lora-r1/resnet18"
SMALL_LORA = "shift/lora-r1/mobilenet_v2"
HEAD = "shift/head/resnet18"
ADAPTER, MANIFEST = "model.safetensors", "stored.json"


RELOADS = {"saved_adapter_reloads": True}


def record_of(identifier, *, reloads=True):
    return make_record(identifier, invariants={"saved_adapter_reloads": reloads})


def keep(run_file, identifier, *, size=10, **fields):
    """Keep what a case ships beside a run file; return its folder."""
    record = msgspec.structs.replace(record_of(identifier), **fields)
    keep_weights(run_file, record, b"x" * size)
    return run_adapters.adapters_of_run(run_file) / identifier.replace("/", "--")


@pytest.fixture
def run_file(tmp_path):
    """A run of three cases that kept what each of them ships."""
    path = write_run(
        tmp_path / "run.json", make_run(*(record_of(name) for name in (LORA, SMALL_LORA, HEAD)))
    )
    for name, size in ((LORA, 30), (SMALL_LORA, 20), (HEAD, 40)):
        keep(path, name, size=size)
    return path


def test_each_case_of_ones_own_has_an_adapter_of_its_own(tmp_path):
    names = ("text/lora-r4/encoder", "images/lora-r4/net")
    own = [make_record(n, invariants=RELOADS, profiled_on="fake tensors") for n in names]
    path = write_run(tmp_path / "run.json", make_run(*own, record_of(LORA)))
    for name in (*names, LORA):
        keep(path, name)
    root = tmp_path / "b"
    accepted(path, root)
    assert named(root).keys() == {*names, LORA}
    for record in own:
        folder, _ = stored_adapter(root, record.case, record.definition)
        assert folder == adapter_folder(root, named(root)[record.case.id])


def test_a_run_keeps_what_is_small_beside_its_file_and_nothing_of_an_earlier_run(tmp_path):
    run_file, taken = tmp_path / "bench.json", tmp_path / "taken.adapters"
    assert run_adapters.adapters_of_run(run_file) == tmp_path / "bench.adapters"
    folder = keep(run_file, HEAD, size=run_adapters.LARGEST_BYTES)
    (folder / "stray").write_text("of an earlier release")
    keep(run_file, HEAD, size=3)
    assert {path.name for path in folder.iterdir()} == {ADAPTER, MANIFEST}
    assert (folder / ADAPTER).stat().st_size == 3
    keep(run_file, HEAD, size=run_adapters.LARGEST_BYTES + 1)
    assert not folder.exists()
    taken.write_text("a file where the folder would be")
    keep(tmp_path / "taken.json", HEAD)
    assert taken.read_text() == "a file where the folder would be"


def test_pruning_removes_only_adapters_of_earlier_runs(tmp_path):
    run_file = tmp_path / "run.json"
    kept = keep(run_file, HEAD)
    gone = keep(run_file, LORA)
    failed = keep(run_file, SMALL_LORA)
    other = keep(run_file, "unseen/head/resnet18", definition="sha256:other")
    altered = keep(run_file, "unseen/full/resnet18")
    (altered / ADAPTER).write_bytes(b"y")
    (notes := kept.parent / "notes").mkdir()
    names = (HEAD, "unseen/head/resnet18", "unseen/full/resnet18")
    records = [*map(record_of, names), record_of(SMALL_LORA, reloads=False)]
    run_adapters.prune_adapters(kept.parent, make_run(*records))
    assert kept.exists()
    assert not any(path.exists() for path in (gone, failed, other, altered))
    assert notes.exists()
    run_adapters.prune_adapters(tmp_path / "absent", make_run())


def accepted(source, root, reason="r", **how):
    return accept_run(source, root=root, reason=reason, date=DATE, **how)


def named(root):
    """Return the adapters that the newest entry names."""
    return acceptance_of(read_runs(root)[-1]).adapters


def folders(root):
    return {path.name for path in (root / "adapters").iterdir()}


def test_the_smallest_of_each_method_is_stored_under_the_digest_of_its_manifest(run_file, tmp_path):
    root = tmp_path / "baselines"
    done = accepted(run_file, root)
    assert [one.stored.case for one in done.adapters.new.values()] == [HEAD, SMALL_LORA]
    assert named(root).keys() == {HEAD, SMALL_LORA}
    assert folders(root) == {digest.removeprefix("sha256:") for digest in named(root).values()}
    manifest = adapter_folder(root, named(root)[SMALL_LORA]) / "stored.json"
    assert digest_of(manifest.read_bytes()) == named(root)[SMALL_LORA]
    stored = json.loads(manifest.read_text())
    assert stored["case"] == SMALL_LORA
    assert stored["packages"]["peft"] == "0.18.1"
    assert stored["output"] == [[0.5]]


def test_an_older_adapter_stays_while_it_loads_or_nothing_newer_is_there(run_file, tmp_path):
    root, path = tmp_path / "baselines", tmp_path / "next.json"
    accepted(run_file, root)
    before = named(root)
    for loads in (True, False):
        facts = {**RELOADS, "stored_adapter_loads": loads}
        records = [make_record(name, invariants=facts) for name in (SMALL_LORA, LORA)]
        write_run(path, make_run(*records))
        keep(path, SMALL_LORA, size=21)
        keep(path, LORA, size=1)
        accepted(path, root, "history", history=True)
        assert named(root) == {}
        accepted(path, root, str(loads))
        # A method stays with its case; one that the run has not keeps what an older entry names.
        assert named(root).keys() == {SMALL_LORA}
        assert (named(root)[SMALL_LORA] == before[SMALL_LORA]) is loads
    assert stored_adapter(root, make_case(HEAD), definition_of(HEAD)) is not None
    assert len(folders(root)) == 3, "nothing that an entry names is ever removed"
    failing = make_record(HEAD, invariants={"stored_adapter_loads": False})
    accepted(write_run(tmp_path / "failing.json", make_run(failing)), root, "accepted as it is")
    assert named(root) == {HEAD: before[HEAD]}


def test_shards_are_one_run(tmp_path):
    shards = tmp_path / "shards"
    for index, name in enumerate((LORA, SMALL_LORA)):
        path = write_run(shards / f"{index}.json", make_run(record_of(name)))
        keep(path, name, size=10 - index)
    assert accepted(shards, tmp_path / "b").adapters.new["lora"].stored.case == SMALL_LORA


@pytest.mark.parametrize("identifier", ["unseen/head/resnet18", HEAD])
def test_adapters_of_another_run_are_refused(run_file, tmp_path, identifier):
    """Of a case that this one has not, or of another definition of one that it has."""
    keep(run_file, identifier, definition="sha256:other")
    with pytest.raises(InputError, match=f"comes from {identifier} in another run. Remove"):
        accepted(run_file, tmp_path / "baselines")
    assert not baseline_files(tmp_path / "baselines")


@pytest.mark.parametrize("name", ["conftest.py", ".gitattributes", "a\nb.json", "model.pkl"])
def test_a_file_that_no_library_calls_so_is_not_stored(run_file, tmp_path, name):
    """pytest would run one, git obey another: the folder may come from anyone's artifact."""
    folder = run_adapters.adapters_of_run(run_file) / HEAD.replace("/", "--")
    (folder / name).write_bytes(b"x")
    manifest = json.loads((folder / MANIFEST).read_text())
    manifest["files"][name] = hashlib.sha256(b"x").hexdigest()
    (folder / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(InputError, match="is not a manifest of a stored adapter") as refused:
        accepted(run_file, tmp_path / "baselines")
    assert str(refused.value).isprintable()


@pytest.fixture
def storage(run_file, tmp_path):
    root = tmp_path / "baselines"
    accepted(run_file, root)
    return root


def definition_of(name):
    return record_of(name).definition


def other_output(folder):
    return (folder / MANIFEST).read_text().replace("0.5", "2.5")


def test_what_was_stored_is_found_by_its_case_and_definition(storage):
    folder, stored = stored_adapter(storage, make_case(HEAD), definition_of(HEAD))
    assert (folder / ADAPTER).read_bytes() == b"x" * 40
    assert stored.output == [[0.5]]
    assert stored_adapter(storage, make_case(HEAD), "sha256:other") is None
    assert stored_adapter(storage, make_case("unseen/head/resnet18"), definition_of(HEAD)) is None
    assert stored_adapter(storage, make_case("shift/full/resnet18"), definition_of(HEAD)) is None
    assert stored_adapter(storage / "absent", make_case(HEAD), definition_of(HEAD)) is None


@pytest.mark.parametrize("all_of_them", [True, False])
def test_an_adapter_that_was_removed_is_missed_by_whoever_judges(storage, run_file, all_of_them):
    folder = adapter_folder(storage, named(storage)[HEAD])
    shutil.rmtree(folder.parent if all_of_them else folder)
    for read in (
        lambda: stored_adapter(storage, make_case(HEAD), definition_of(HEAD)),
        lambda: accepted(run_file, storage, "again"),
        lambda: load_references(storage, None),
        lambda: read_entries(storage, []),
    ):
        with pytest.raises(InputError, match=r"its adapter .*is missing\. "):
            read()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda at: (at / ADAPTER).write_bytes(b"y"), r"expected sha256 \w{64}, found \w{64}"),
        (lambda at: (at / ADAPTER).unlink(), r"safetensors: expected sha256 \w{64}, found none"),
        (lambda at: (at / "a.bin").touch(), r"a.bin: expected sha256 no such file, found \w{64}"),
        (lambda at: (at / "more").mkdir(), "more: cannot be read"),
        (lambda at: (at / MANIFEST).unlink(), "stored.json: cannot be read"),
        # All files are as it says; but the entry names another.
        (lambda at: (at / MANIFEST).write_text(other_output(at)), "stored.json: was altered"),
        (lambda at: (at / MANIFEST).write_text("<<<<<<< HEAD"), "json: is not a manifest"),
        (lambda at: (at / MANIFEST).write_text('{"case": "x"}'), "json: is not a manifest"),
    ],
    ids=["altered", "absent", "added", "folder", "unlisted", "replaced", "conflict", "partial"],
)
def test_an_altered_one_is_refused_with_the_file_and_the_remedy(storage, run_file, damage, message):
    damage(adapter_folder(storage, named(storage)[HEAD]))
    for read in (
        lambda: stored_adapter(storage, make_case(HEAD), definition_of(HEAD)),
        lambda: accepted(run_file, storage, "again"),
    ):
        with pytest.raises(InputError, match=message) as refused:
            read()
        assert "git checkout --" in str(refused.value)


def test_what_lies_beside_shards_is_gathered_as_it_is(tmp_path):
    """An artifact of others could lead to a secret of the machine that joins the shards."""
    secret = tmp_path / "token"
    secret.write_text("secret")
    (tmp_path / "shards" / "a.adapters").mkdir(parents=True)
    (tmp_path / "shards" / "a.adapters" / "link").symlink_to(secret)
    gathered = run_adapters.adapters_of_run(tmp_path / "run.json")
    with run_adapters.gathered_adapters(tmp_path / "shards", tmp_path / "run.json"):
        pass
    assert (gathered / "link").is_symlink()
    # Run files that share a folder of adapters keep it.
    with run_adapters.gathered_adapters(tmp_path / "run.json", tmp_path / "run.txt"):
        pass
    assert (gathered / "link").is_symlink()


def test_every_method_with_a_small_adapter_that_reloads_has_one_stored_ten_megabytes_in_all(
    own_storage,
):
    reloading = [
        one.record
        for one in references_with_drift(own_storage).values()
        if one.record.invariants.get("saved_adapter_reloads")
        and one.record.metrics["adapter_bytes"].value < run_adapters.LARGEST_BYTES
    ]
    found = {
        record.case: stored_adapter(BASELINES, record.case, record.definition)
        for record in reloading
    }
    stored = {case.method for case, adapter in found.items() if adapter}
    assert stored == {record.case.method for record in reloading}
    # The language model's cases have one each, the built-in methods one each.
    of_cases = {found[one.case][0].name for one in reloading if one.is_own and found[one.case]}
    sizes = Counter()
    for path in (BASELINES / "adapters").rglob("*"):
        if path.is_file():
            sizes[path.parent.name in of_cases] += path.stat().st_size
    assert sizes[False] < 10e6
    assert sizes[True] < 0.2e6 * len(of_cases)
