"""The matrix `language`: nothing of the installed peft is without a case or a reason."""

import dataclasses
import sys
import typing
from importlib import import_module
from pathlib import Path

import methods as tool
import peft
import peft.optimizers
import pytest
import torch
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from peft_regress import PeftRegressError
from peft_regress.catalogue.matrix import matrix_cases
from peft_regress.measure.own_adapters import adapter_of
from peft_regress.project.fine_tune import NamedConfig

sys.path.append(str(Path(__file__).parents[2]))  # last, so that the wheel is tested
absent, cases, networks, plays = (
    import_module(f"benchmarks.language.{name}")
    for name in ("absent", "cases", "networks", "plays")
)
CONFIGS = [case.adapter for case in cases.CASES if isinstance(case.adapter, NamedConfig)]
STARTED = {case.case.method for case in cases.CASES if callable(case.adapter)}


def test_every_type_of_the_installed_peft_has_a_case():
    """A release that adds a type fails here: give it a case."""
    names = {config.name for config in CONFIGS} | {"XLoraConfig"}
    assert "xlora" in STARTED
    types = PEFT_TYPE_TO_CONFIG_MAPPING.items()
    assert [kind.value for kind, config in types if config.__name__ not in names] == []


def test_every_setting_of_lora_has_a_case_or_a_reason():
    used = {name for config in CONFIGS if config.name == "LoraConfig" for name in config.settings}
    used |= {f"{name}_config" for name in STARTED}
    fields = {field.name for field in dataclasses.fields(peft.LoraConfig)}
    assert fields - used == absent.ABSENT.keys() & fields


def test_every_start_of_lora_has_a_case_or_a_reason():
    hint = typing.get_type_hints(peft.LoraConfig)["init_lora_weights"]
    starts = {value for one in typing.get_args(hint) for value in typing.get_args(one)}
    used = {str(config.settings.get("init_lora_weights")) for config in CONFIGS} | STARTED
    # A draw of another distribution, fewer iterations of PiSSA's, and one for CUDA.
    assert starts - used == {"gaussian", "pissa_niter_[number of iters]", "loftq"}


def test_every_optimizer_of_peft_has_a_case():
    used = {case.optimizer.keywords.get("name") for case in cases.CASES if case.optimizer}
    assert set(peft.optimizers.__all__) <= used


def test_the_cases_are_a_matrix_of_the_project():
    assert {case.id for case in cases.CASES} == {case.id for case in matrix_cases("language")}


def test_the_decoder_takes_the_sequences_and_ties_its_embeddings():
    model = networks.llama()
    train, test = plays.folio()
    assert model(**{name: rows[:2] for name, rows in test.items()}).logits.shape == (2, 64, 96)
    assert train["input_ids"].shape[1] == plays.LENGTH
    assert model.lm_head.weight is model.model.embed_tokens.weight


@pytest.mark.parametrize("name", ["full", "galore-r4"])
def test_a_tied_weight_is_shipped_once_and_loads(name, tmp_path):
    method = adapter_of(next(case for case in cases.CASES if case.case.adapter_name == name))
    model = method.adapt(networks.llama(), seed=0)
    with torch.no_grad():
        model.model.embed_tokens.weight += 1
    assert "lm_head.weight" not in method.shipped_tensors(model)
    method.save(model, tmp_path)
    loaded = method.load(networks.llama(), tmp_path, trainable=False)
    assert torch.equal(loaded.lm_head.weight, model.lm_head.weight)


def test_the_source_knows_modern_spelling_better_than_the_folios():
    model = networks.llama().eval()
    modern = plays.modern()["input_ids"][:50]
    folio = plays.folio()[1]["input_ids"][:50]
    with torch.no_grad():
        losses = [model(input_ids=rows, labels=rows).loss.item() for rows in (modern, folio)]
    assert losses[1] > losses[0] + 0.5


@pytest.mark.parametrize(
    "names", [(plays, "FILE", plays.read_plays), (networks, "SOURCES", networks.llama)]
)
def test_other_bytes_are_refused(names, tmp_path, monkeypatch):
    module, name, read = names
    for file in ("plays.xz", "llama.safetensors"):
        (tmp_path / file).write_bytes(b"other")
    monkeypatch.setattr(module, name, tmp_path / "plays.xz" if name == "FILE" else tmp_path)
    plays.read_plays.cache_clear()
    with pytest.raises(PeftRegressError, match=r"found sha256 [0-9a-f]{64}, expected"):
        read()


@pytest.mark.parametrize(
    "on", ["folio/llama", "folio/mixtral", "folio_passages/t5", "lower_case/bert"]
)
def test_the_page_shows_what_each_source_needs(on):
    task, network = on.split("/")
    full = next(case for case in cases.CASES if case.id == f"{task}/full/{network}")
    torch.manual_seed(0)  # of a new head
    with torch.no_grad():
        saved = full.score(full.model().eval(), [full.data()[1]])
    row = next(
        line for line in tool.PLAYS.read_text().splitlines() if line.startswith(f"| `{network}`")
    )
    assert row.endswith(f" {-saved:.2f} bits |")
