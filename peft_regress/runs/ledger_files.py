"""Keep each ledger once, under the digest of its content: in a run file, or in a storage.

A run file has the ledgers in one mapping, `ledgers`, and each record names its own by digest. A
storage has each as one compressed file beside its entries: `ledgers/<2 hex>/<64 hex>.json.gz`. The
digest is that of the ledger's canonical JSON.
"""

import gzip
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from peft_regress.errors import InputError
from peft_regress.files import read_bytes
from peft_regress.runs import schema


def with_digests(run: schema.Run) -> schema.Run:
    """Return a run in the form of a file: each record names its ledger, and the run holds them.

    A record keeps an empty ledger. Raises `InputError` for a ledger that was not read.
    """
    ledgers: dict[str, schema.Ledger] = {}
    known: dict[int, str] = {}
    cases: dict[str, schema.Record] = {}
    for name, record in run.cases.items():
        cases[name] = record
        if record.ledger == schema.Ledger():
            continue
        if isinstance(record.ledger, str):
            if record.ledger not in run.ledgers:
                raise InputError(f"{name}: its ledger {record.ledger} was not read")
            ledgers[record.ledger] = run.ledgers[record.ledger]
            continue
        digest = known.get(id(record.ledger)) or schema.canonical_digest(record.ledger)
        known[id(record.ledger)] = digest
        ledgers[digest] = record.ledger
        cases[name] = msgspec.structs.replace(record, ledger=digest)
    return msgspec.structs.replace(run, cases=cases, ledgers=dict(sorted(ledgers.items())))


def with_ledgers(run: schema.Run, kept: Mapping[str, schema.Ledger]) -> schema.Run:
    """Undo `with_digests` for the ledgers that a file keeps.

    A run of a storage, whose file keeps none, stays as it is. Raises `InputError` for a ledger that
    was altered, is not there, or belongs to no case.
    """
    for digest, ledger in kept.items():
        if schema.canonical_digest(ledger) != digest:
            raise InputError(f"the ledger {digest} was altered after it was written")
    cases = dict(run.cases)
    unused = set(kept)
    for name, record in run.cases.items():
        if isinstance(record.ledger, schema.Ledger):
            if record.ledger != schema.Ledger():
                raise InputError(f"{name}: its ledger is in its record, not under its digest")
        elif record.ledger in kept:
            unused.discard(record.ledger)
            cases[name] = msgspec.structs.replace(record, ledger=kept[record.ledger])
        elif kept:
            raise InputError(f"{name}: its ledger {record.ledger} is not in the file")
    if unused:
        raise InputError(f"the ledger {min(unused)} belongs to no case")
    return msgspec.structs.replace(run, cases=cases)


def ledger_file(folder: Path, digest: str) -> Path:
    """Return where a storage keeps a ledger."""
    name = digest.removeprefix("sha256:")
    return folder / name[:2] / f"{name}.json.gz"


def ledger_content(ledger: schema.Ledger) -> bytes:
    """Return the content of a ledger's file, the same whenever it is made."""
    return gzip.compress(schema.canonical_json(ledger), compresslevel=9, mtime=0)


def read_ledger(folder: Path, digest: str) -> schema.Ledger:
    """Read a ledger from the folder of a storage. Raises `InputError` if it is not as stored."""
    path = ledger_file(folder, digest)
    try:
        content = gzip.decompress(read_bytes(path))
        if schema.digest_of(content) == digest:
            return msgspec.json.decode(content, type=schema.Ledger)
        problem = "was altered"
    except FileNotFoundError:
        problem = "is missing"
    except (zlib.error, EOFError, OSError) as error:  # no gzip raises an OSError too
        problem = f"was altered ({error})"
    raise InputError(f"{path} {problem}")
