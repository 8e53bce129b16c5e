"""Save adapters, and load them into a fresh base or beside the others."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

from safetensors import safe_open

from peft_fuzz.acts.act import Act, Lines, folder_of, named
from peft_fuzz.oracle import library
from peft_fuzz.oracle.checks import fail
from peft_fuzz.oracle.life import Life
from peft_fuzz.oracle.plan import Change, Plan
from peft_regress.cases import Name


class SaveLoad(Act, frozen=True, kw_only=True, tag="save_load"):
    """Save the adapters, and load them into a fresh copy of the base; go on with the loaded one."""

    title: ClassVar = "saving and loading"

    trainable: bool = False

    def is_legal(self, plan: Plan) -> bool:
        return bool(plan.active) and not (plan.merged or plan.padded)

    def after(self, plan: Plan) -> Plan:
        first = (next(iter(plan.settings)),)
        # Another adapter than the first is activated afterwards, which makes it trainable.
        trains = self.trainable or plan.active != first
        return replace(
            plan,
            enabled=True,
            training=False,
            trainable=frozenset(plan.active) if trains else frozenset(),
        )

    def carry_out(self, life: Life) -> None:
        import peft

        folder, names, active = life.save(), [*life.plan.settings], life.plan.active
        _check_saved_keys(life, folder)
        load: Any = peft.PeftModel.from_pretrained
        keywords = library.autocast_argument(load, autocast=life.autocast)
        loaded = load(
            deepcopy(life.origin),
            str(library.saved_in(folder, names[0])),
            adapter_name=names[0],
            is_trainable=self.trainable,
            **keywords,
        )
        how = {"trainable": self.trainable, "autocast": life.autocast}
        for name in names[1:]:
            library.load_beside(loaded, library.saved_in(folder, name), name, **how)
        if len(active) > 1:
            loaded.base_model.set_adapter([*active])
        elif active[0] != names[0] or (self.trainable and len(names) > 1):
            loaded.set_adapter(active[0])
        loaded.eval()
        _check_configuration(life, loaded)
        life.model, life.optimizer = loaded, None
        life.give_back_weights()

    def change(self, plan: Plan) -> Change:
        import peft

        return Change(
            known_by="loaded",
            is_another_model=True,
            puts_in=tuple(plan.settings),
            through=peft.PeftModel.from_pretrained,
        )

    def traits(self) -> Iterator[str]:
        if self.trainable:
            yield "loaded to train"

    def lines(self, script: Lines) -> Iterator[str]:
        first = script.on.adapters[0].name
        trainable = f"is_trainable={self.trainable}{script.autocast}"
        yield f"torch.manual_seed({script.seed})"
        yield "folder = tempfile.mkdtemp()"
        yield "adapters, active = list(model.peft_config), model.active_adapters"
        yield "model.save_pretrained(folder)"
        yield "model = PeftModel.from_pretrained("
        yield f"    copy.deepcopy(original), {folder_of(first)}{named(first)},"
        yield f"    {trainable},"
        yield ")"
        yield "for name in adapters[1:]:"
        yield "    place = folder if name == 'default' else f'{folder}/{name}'"
        yield f"    model.load_adapter(place, name, {trainable})"
        yield "if len(adapters) > 1:"
        yield "    model.base_model.set_adapter(active)"
        yield "model.eval()"


def _check_configuration(life: Life, loaded: Any) -> None:
    """Raise NotHeldError if a loaded configuration differs, or loading changes what it gets."""
    import peft

    for name, settings in life.plan.settings.items():
        for key in settings:
            saved = getattr(life.model.peft_config[name], key)
            found = getattr(loaded.peft_config[name], key)
            if found != saved and key != "inference_mode":
                fail("loaded", f"{key} of {name} was {saved!r} and is loaded as {found!r}.")
        state = peft.get_peft_model_state_dict(loaded, adapter_name=name)
        keys = sorted(state)
        peft.set_peft_model_state_dict(loaded, state, adapter_name=name)
        if sorted(state) != keys:
            fail("loaded", f"Loading a state dict into {name} has changed the caller's dict.")


def _check_saved_keys(life: Life, folder: Path) -> None:
    """Raise NotHeldError if an adapter's file has a tensor of another adapter."""
    for name in life.plan.settings:
        path = library.saved_in(folder, name) / "adapter_model.safetensors"
        with safe_open(path, "pt") as file:
            saved = set(file.keys())
        mine = {form for key, bare in _keys(life, name) for form in (key, bare)}
        for other in life.plan.settings:
            if other == name:
                continue
            for key, bare in _keys(life, other):
                # A careless removal of this adapter's name changes the other's key.
                forms = {key, bare, key.replace(f".{name}", ""), key.replace(name, "")}
                if forms & (saved - mine):
                    fail("saved_keys", f"The file of {name} holds {key} of {other}.")


def _keys(life: Life, adapter: str) -> list[tuple[str, str]]:
    """Return the keys of an adapter's tensors, with and without its name."""
    return [
        (f"{path}.{key}", f"{path}.{key.replace(f'.{adapter}', '', 1)}")
        for path, key, _ in life.held(adapter)
    ]


class LoadBeside(Act, frozen=True, kw_only=True, tag="load_beside"):
    """Save an adapter, and load it into the same model under a new name."""

    title: ClassVar = "loading another adapter"
    stage: ClassVar = "wrap"
    may_refuse: ClassVar = True

    adapter: Name
    name: Name
    trainable: bool = False

    def is_legal(self, plan: Plan) -> bool:
        return (
            self.adapter in plan.settings
            and self.name not in plan.settings
            and plan.is_open
            and not plan.has_bias
            and not plan.moved
            and not plan.padded
        )

    def after(self, plan: Plan) -> Plan:
        # Loading for inference puts the whole model into evaluation mode.
        return replace(
            plan.with_adapter(self.name, plan.settings[self.adapter]),
            trainable=None if self.trainable else plan.trainable,
            training=plan.training and self.trainable,
        )

    def carry_out(self, life: Life) -> None:
        place = library.saved_in(life.save([self.adapter]), self.adapter)
        library.load_beside(
            life.model, place, self.name, trainable=self.trainable, autocast=life.autocast
        )
        if (self.adapter,) in life.known:
            life.known[self.name,] = life.known[self.adapter,]

    def change(self, plan: Plan) -> Change:
        return Change(puts_in=(self.name,), through="load_adapter")

    def traits(self) -> Iterator[str]:
        if self.trainable:
            yield "loaded to train"

    def named(self) -> Iterator[str]:
        yield self.name

    def lines(self, script: Lines) -> Iterator[str]:
        yield f"torch.manual_seed({script.seed})"
        yield "folder = tempfile.mkdtemp()"
        yield f"model.save_pretrained(folder, selected_adapters=[{self.adapter!r}])"
        keywords = f"is_trainable={self.trainable}{script.autocast}"
        yield f"model.load_adapter({folder_of(self.adapter)}, {self.name!r}, {keywords})"
