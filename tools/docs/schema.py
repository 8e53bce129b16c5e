"""Write docs/run-file.schema.json, the JSON Schema of a run file, or check that it is up to date.

`python tools/docs/schema.py --write` or `--check`. The structs of `peft_regress.runs.schema` say
what a file may hold; what its reader checks beyond them, and a schema can say, is added here.
"""

import ast
import inspect
import itertools
import json
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import msgspec
from page_tables import write_or_check

from peft_regress.metrics import Metric
from peft_regress.runs import schema as runs_schema
from peft_regress.runs.schema import SCHEMA_VERSION, Run

SCHEMA: Final = Path(__file__).parents[2] / "docs" / "run-file.schema.json"

_LARGEST: Final = 1e100
_ADDRESS: Final = {"type": "string", "pattern": "^sha256:[0-9a-f]{64}$"}

# With a type only where the reader checks it.
_OF_PYTEST_BENCHMARK: Final = {
    "machine_info": {
        "description": "The machine as pytest-benchmark saw it, without the name of the host.",
        "type": "object",
    },
    "commit_info": {"description": "The commit that was measured."},
    "benchmarks": {
        "description": "The timed cases only, as pytest-benchmark writes them. Their times are "
        "shown; nothing here is judged.",
        "type": "array",
    },
    "datetime": {"description": "When the file was written."},
    "version": {"description": "The version of pytest-benchmark."},
}


def schema() -> dict[str, Any]:
    """Return the schema of the whole file."""
    (reference,), definitions = msgspec.json.schema_components([Run], ref_template="#/$defs/{name}")
    structs = {**vars(runs_schema), "Metric": Metric}
    for name, definition in definitions.items():
        _describe(definition, structs[name])
    _tighten(definitions)
    made: dict[str, Any] = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": SCHEMA.name,
        "title": "A run file of peft_regress",
        "description": "A file of pytest-benchmark with one more object, peft_regress. That object "
        "is strict: a key that is not listed is an error.",
        "type": "object",
        "properties": {**_OF_PYTEST_BENCHMARK, "peft_regress": reference},
        "required": ["peft_regress"],
        "$defs": dict(sorted(definitions.items())),
    }
    portable: dict[str, Any] = _portable(made)
    return portable


def _describe(definition: dict[str, Any], kind: type) -> None:
    """Add the documentation of the fields, also of those that a base class declares."""
    definition["description"] = _one_line(definition["description"].partition("\n\n")[0])
    fields = definition["properties"]
    for owner in reversed(kind.__mro__):
        if issubclass(owner, msgspec.Struct) and owner is not msgspec.Struct:
            for name, text in _documented_fields(owner):
                # A description beside `$ref` is allowed since draft 2019-09.
                fields[name] = {"description": text, **fields[name]}


def _documented_fields(kind: type) -> Iterator[tuple[str, str]]:
    """Yield the name of each field that a text stands below, and that text on one line."""
    (body,) = ast.parse(textwrap.dedent(inspect.getsource(kind))).body
    assert isinstance(body, ast.ClassDef)  # noqa: S101  (the source of a class)
    for field, below in itertools.pairwise(body.body):
        match field, below:
            case ast.AnnAssign(target=ast.Name(name)), ast.Expr(ast.Constant(str(text))):
                yield name, _one_line(text)


def _one_line(text: str) -> str:
    return " ".join(text.split())


def _tighten(definitions: dict[str, Any]) -> None:
    """Add what the reader checks between keys."""
    run, record, metric = (definitions[name] for name in ("Run", "Record", "Metric"))
    run["properties"]["schema_version"] = {"const": SCHEMA_VERSION}
    run["properties"]["content_digest"] = {
        "description": "Of all other keys but `ledgers`, with sorted keys and no blanks.",
        **_ADDRESS,
    }
    run["required"] = [*run["required"], "content_digest"]
    run["properties"]["ledgers"]["propertyNames"] = _ADDRESS
    number = {"type": "number", "minimum": -_LARGEST, "maximum": _LARGEST}
    of_numbers = {"anyOf": [number, {"type": "array", "items": number}]}
    metric["properties"]["value"] |= number
    metric["properties"]["value"].pop("anyOf")
    samples = metric["properties"]["samples"]
    samples["anyOf"] = [{"type": "array", "items": of_numbers}, {"type": "null"}]
    at_least_zero = {"minimum": 0}
    metric["allOf"] = [
        {
            "if": {"properties": {"unit": {"enum": ["nat", "ratio"]}}},
            "else": {
                "description": "Only nats and ratios may be negative.",
                "properties": {
                    "value": at_least_zero,
                    "samples": {"items": {**at_least_zero, "items": at_least_zero}},
                },
            },
        }
    ]
    record["allOf"] = [_STATUS]
    run["allOf"] = [_JUDGES]
    acceptance = definitions["Acceptance"]
    acceptance["allOf"] = [_OF_BASELINES]


_STATUS: Final = {
    "if": {"properties": {"status": {"const": "ok"}}},
    "then": {
        "description": "A case that is ok has metrics and no error.",
        "properties": {"error": {"type": "null"}, "metrics": {"minProperties": 1}},
    },
    "else": {"properties": {"error": {"type": "object"}, "metrics": {"maxProperties": 0}}},
}

_OF_BASELINES: Final = {
    "if": {
        "anyOf": [
            {"properties": {"retired": {"minItems": 1}}, "required": ["retired"]},
            {"properties": {"repeats": {"minProperties": 1}}, "required": ["repeats"]},
        ]
    },
    "then": {
        "description": "Only a baseline retires cases, or confirms them.",
        "properties": {"role": {"const": "baseline"}},
    },
}

_JUDGES: Final = {
    "if": {
        "properties": {
            "accepted": {"properties": {"role": {"const": "baseline"}}, "required": ["role"]}
        },
        "required": ["accepted"],
    },
    "then": {
        "description": "A case without the scores of all seeds cannot judge.",
        "properties": {
            "cases": {
                "additionalProperties": {
                    "if": {"required": ["repeats"]},
                    "then": {"properties": {"metrics": {"required": ["loss"]}}},
                }
            }
        },
    },
}


def _portable(value: Any) -> Any:
    r"""Return a schema without what only Python's regular expressions know: `\\Z`."""
    if isinstance(value, dict):
        return {
            key: item.replace(r"\Z", "$") if key == "pattern" else _portable(item)
            for key, item in value.items()
        }
    return [_portable(item) for item in value] if isinstance(value, list) else value


if __name__ == "__main__":
    sys.exit(write_or_check(SCHEMA, json.dumps(schema(), indent=2) + "\n"))
