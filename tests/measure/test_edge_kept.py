"""A program that was planned and run before is not planned and run again; any other one is."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch
from edge_programs import batch, lora_model, loss, subject
from tiny_network import tiny_network

import peft_regress
from peft_regress.files import cache_folder
from peft_regress.measure.edge import ProgramError, UnsupportedProgramError, key
from peft_regress.measure.edge.costs import EdgePrograms, run_programs
from peft_regress.measure.edge.export import Exported, exported_inference, exported_training
from peft_regress.measure.edge.kept import KnownProgram
from peft_regress.measure.edge.key import program_key, run_key
from peft_regress.measure.edge.runtime import Runtime

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from torch import nn

PACKAGE = Path(next(iter(peft_regress.__path__)))


@pytest.fixture
def exported() -> Exported:
    return exported_training(lora_model(), batch(), loss=loss)


@pytest.mark.executorch
def test_equal_programs_of_two_models_have_one_key(exported: Exported) -> None:
    again = exported_training(lora_model(), batch(), loss=loss)
    assert program_key(exported) == program_key(again) is not None


def other_weight(model: nn.Module) -> None:
    with torch.no_grad():
        weight = next(model.parameters())
        weight[(0,) * weight.ndim] = torch.nextafter(
            weight[(0,) * weight.ndim], torch.tensor(torch.inf)
        )


def frozen_adapter(model: nn.Module) -> None:
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(parameter.requires_grad and "lora_B" not in name)


def other_constant(model: nn.Module) -> None:
    norm = next(each for each in model.modules() if isinstance(each, torch.nn.BatchNorm2d))
    norm.eps *= 1.0001


@pytest.mark.executorch
@pytest.mark.parametrize("change", [other_weight, frozen_adapter, other_constant])
def test_a_model_that_differs_has_another_key(
    exported: Exported, change: Callable[[nn.Module], None]
) -> None:
    model = lora_model()
    change(model)
    other = exported_training(model, batch(), loss=loss)
    assert program_key(other) != program_key(exported)


@pytest.mark.executorch
def test_another_batch_loss_pass_or_setting_has_another_key(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = lora_model()
    keys = [
        program_key(exported),
        program_key(exported_training(model, batch(count=3), loss=loss)),
        program_key(exported_training(model, batch(), loss=lambda *both: 2 * loss(*both))),
        program_key(exported_inference(model, batch()[0], call=lambda one, images: one(images))),
    ]
    monkeypatch.setenv("TORCH_SOMETHING", "1")
    keys.append(program_key(exported))
    torch.set_default_dtype(torch.float64)
    try:
        keys.append(program_key(exported))
    finally:
        torch.set_default_dtype(torch.float32)
    assert len(set(keys)) == len(keys)


@pytest.mark.executorch
def test_other_libraries_or_other_code_of_this_project_have_another_key(
    exported: Exported, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = program_key(exported)
    (tmp_path / "kernel.py").write_text("one")
    monkeypatch.setattr(key, "_folders", lambda _: [str(tmp_path)])
    seen = [before]
    for content in ("one", "three"):
        (tmp_path / "kernel.py").write_text(content)
        key.libraries.cache_clear()
        seen.append(program_key(exported))
    monkeypatch.setattr(key, "_OWN_CODE", key._OWN_CODE[1:])
    key.libraries.cache_clear()
    seen.append(program_key(exported))
    key.libraries.cache_clear()
    assert len(set(seen)) == 4
    assert None not in seen


def decompositions() -> dict[Any, Any]:
    return {}


@pytest.mark.executorch
def test_a_library_that_is_patched_has_no_key(
    exported: Exported, monkeypatch: pytest.MonkeyPatch
) -> None:
    from executorch.exir.memory_planning import MemoryPlanningAlgorithmSuite
    from torch.export import exported_program

    assert program_key(exported) is not None
    with monkeypatch.context() as patch:
        patch.setattr(MemoryPlanningAlgorithmSuite, "__call__", lambda *_: None)
        assert program_key(exported) is None
    with monkeypatch.context() as patch:
        patch.setattr(exported_program, "default_decompositions", decompositions)
        assert program_key(exported) is None
    assert program_key(exported) is not None


def test_a_run_is_known_by_its_inputs_and_what_it_is_compared_with(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    images, labels = batch()
    nearly = images.clone()
    nearly[0, 0, 0, 0] += 1e-6
    keys = [
        run_key("a", values)
        for values in (
            (images, labels),
            (nearly, labels),
            (labels, images),
            (images, labels, 0.1),
            (images, labels, {"gradient": images}),
            (images, labels, {"gradient": nearly}),
        )
    ]
    keys.append(run_key("b", (images, labels)))

    class Other:
        digest = "sha256:other"

    monkeypatch.setattr(key, "describe_machine", Other)
    keys.append(run_key("a", (images, labels)))
    assert len(set(keys)) == len(keys)


@pytest.fixture
def refusing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let nothing be planned or run."""

    def refuse(*_: Any, **__: Any) -> None:
        msg = "it was planned or run"
        raise AssertionError(msg)

    monkeypatch.setattr(Exported, "program", property(refuse))
    monkeypatch.setattr(Runtime, "_run", refuse)


@pytest.mark.executorch
def test_what_is_known_is_neither_planned_nor_run_again(
    monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    def of() -> EdgePrograms:
        one = subject(lora_model(), merged=lora_model().merge_and_unload())
        return EdgePrograms(subject=one, optimizer_state_bytes=0)

    with Runtime() as runtime:
        first = of()
        ran = run_programs(first, runtime)
        request.getfixturevalue("refusing")
        again = of()
        assert (again.metrics, again.plans) == (first.metrics, first.plans)
        assert run_programs(again, runtime) == ran
        other = of()
        other_weight(other.subject.model)
        with pytest.raises(AssertionError, match="it was planned or run"):
            run_programs(other, runtime)


@pytest.mark.executorch
def test_a_damaged_file_is_as_good_as_none() -> None:
    def planned() -> int:
        exported = exported_inference(lora_model(), batch()[0], call=lambda one, rows: one(rows))
        return KnownProgram(exported).cost.planned_bytes

    first = planned()
    (file,) = (cache_folder() / "programs").iterdir()
    right = file.read_bytes()
    file.write_bytes(right.replace(str(first).encode(), str(first + 1).encode()))
    assert planned() == first
    assert file.read_bytes() == right


@pytest.mark.executorch
def test_a_run_that_fails_is_run_again(exported: Exported) -> None:
    program = KnownProgram(exported)
    tries = []

    def fails(_: Any) -> Any:
        tries.append(1)
        msg = "the runtime fails"
        raise ProgramError(msg)

    for _ in range(2):
        with pytest.raises(ProgramError):
            program.run((), fails)
    assert len(tries) == 2


@pytest.mark.executorch
def test_that_a_program_is_refused_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    tries = []

    def refuses(*_: Any) -> Any:
        tries.append(1)
        msg = "the runtime refuses the program: aten::foo.out"
        raise UnsupportedProgramError(msg)

    def known() -> KnownProgram:
        return KnownProgram(exported_training(lora_model(), batch(), loss=loss))

    for values in ((), (), (1,)):
        with pytest.raises(UnsupportedProgramError, match=r"refuses the program: aten::foo\.out$"):
            known().run(values, refuses)
    assert len(tries) == 2
    monkeypatch.setattr(Exported, "program", property(refuses))
    for _ in range(2):
        with pytest.raises(UnsupportedProgramError, match="refuses the program"):
            _ = known().cost
    assert len(tries) == 3


@pytest.mark.executorch
def test_nothing_else_is_planned_where_the_training_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuses(*_: Any, **__: Any) -> Any:
        msg = "refused"
        raise UnsupportedProgramError(msg)

    monkeypatch.setattr(Runtime, "train", refuses)
    of = EdgePrograms(subject=subject(lora_model()), optimizer_state_bytes=0)
    with Runtime() as runtime, pytest.raises(UnsupportedProgramError):
        run_programs(of, runtime)
    assert {"training", "inference", "merged"} & vars(of).keys() == {"training"}


def test_the_key_covers_all_code_that_exports_plans_and_runs() -> None:
    """All that this code imports of `cost` and `measure`, from the files that do the work."""
    names = ("costs", "runtime", "runtime_process")
    waiting = [f"measure/edge/{name}.py" for name in names]
    found: set[str] = set()
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += _imported(ast.parse((PACKAGE / path).read_text()))
    assert found == set(key._OWN_CODE)


def _imported(tree: ast.AST) -> Iterator[str]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.ImportFrom) and node.module:
            parts = node.module.split(".")
            if parts[0] == "peft_regress" and parts[1:2] in (["cost"], ["measure"]):
                path = "/".join(parts[1:])
                assert (PACKAGE / f"{path}.py").exists(), f"import the module itself: {path}"
                yield f"{path}.py"
        yield from _imported(node)


def test_the_tiny_network_has_what_these_tests_change() -> None:
    assert any(isinstance(each, torch.nn.BatchNorm2d) for each in tiny_network().modules())
