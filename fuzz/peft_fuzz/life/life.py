"""A life: the adapted model, what it must be, and its acts."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from peft_fuzz import bounds, networks, oracle, owned
from peft_fuzz import example as e
from peft_fuzz.checks import AbsentError, fail
from peft_fuzz.life import model as library
from peft_fuzz.life.combine import combine
from peft_fuzz.life.plan import Plan, adapter_settings
from peft_fuzz.methods import Method

FILL = 0.3
"""Standard deviation of what `Fill` adds: as large as the weights of a small layer."""
STEP = 0.05
"""How far the largest change of a training step goes; 12 steps of bfloat16 near 1."""


class Life:
    """The state of a life, and the acts that change it.

    Attributes:
        origin: The network without adapters, as it was, in its present dtype.
        reference: The same with the biases that adapters have trained (`bias` of some methods).
        merged_size: The largest entry that a base weight had while adapters were merged into it.
        replaced: The weights of the reference for which what unmerging gave back was taken, as they
            were before.
        start: What the network returns without adapters.
        optimized: The adapters that the optimizer was made for.
        known: What the model returned for adapters in effect since their parameters changed.

    """

    def __init__(self, example: e.Example, method: Method, folder: Path) -> None:
        self.example = example
        self.method = method
        self.folder = folder
        self.saves = 0
        self.origin: nn.Module = networks.build(example.network)
        self.reference: nn.Module = deepcopy(self.origin)
        self.x = networks.make_input(example.network)
        self.known: dict[tuple[str, ...], Tensor] = {}
        self.merged_size: dict[str, float] = {}
        self.replaced: dict[str, Tensor] = {}
        self.optimizer: torch.optim.Optimizer | None = None
        self.optimized: frozenset[str] = frozenset()
        self.plan = Plan.start(example, method.abilities)
        self.renew_oracle()
        self.model: Any = None
        self.check_base()

    def renew_oracle(self) -> None:
        """Make the oracle of the present reference."""
        self.oracle = oracle.Oracle(self.reference, self.x)

    def check_base(self) -> None:
        """Raise AbsentError if the network itself does not run here (half precision)."""
        try:
            with torch.no_grad():
                self.start = self.origin(self.x)
        except (RuntimeError, ValueError) as error:
            message = f"the network does not run without an adapter: {error}"
            raise AbsentError(message) from error

    def wrap(self) -> None:
        """Put the first adapter on the network."""
        first = self.example.adapters[0]
        torch.default_generator.manual_seed(self.example.network.seed)
        config = library.configuration(self.method, first.settings)
        self.model = library.wrap(
            deepcopy(self.origin), config, first.name, autocast=self.example.autocast
        )
        self.model.eval()
        self.adopt_base(first.name)

    def adopt_base(self, name: str) -> None:
        """Take over the base weights if an adapter's method changes them at the start."""
        settings = self.plan.settings.get(name)
        adapter = e.Adapter(name=name, settings=dict(settings or {}))
        if self.method.keeps_base(adapter):
            return
        with torch.no_grad():
            for path, module in self.base_layers():
                state = module.state_dict()
                self.reference.get_submodule(path).load_state_dict(state)
        self.known.clear()
        self.renew_oracle()

    def base_layers(self) -> list[tuple[str, nn.Module]]:
        """Return the layers of the network, out of what wraps them, by their paths."""
        adapted = self.model.get_base_model()
        return [
            (layer.name, owned.base_layer(adapted.get_submodule(layer.name)))
            for layer in self.example.network.layers
            if layer.same_as is None
        ]

    @property
    def shares_a_module(self) -> bool:
        """Return whether a module of the network runs under two names.

        What is merged into it acts under both, although an adapter wraps it under one of them.
        """
        return any(layer.same_as is not None for layer in self.example.network.layers)

    def forget(self, *names: str) -> None:
        """Forget the outputs that changed adapters took part in."""
        self.known = {key: out for key, out in self.known.items() if not {*key} & {*names}}

    def observe(self, **keywords: Any) -> Tensor:
        """Return the model's output in evaluation mode; the modes are as before afterwards."""
        with torch.no_grad():
            return self.called(**keywords)

    def called(self, **keywords: Any) -> Tensor:
        """Return the same with the graph of its gradients."""
        modes = [(module, module.training) for module in self.model.modules()]
        self.model.eval()
        try:
            output: Tensor = self.model(self.x, **keywords)
        finally:
            for module, training in modes:
                module.training = training
        return output

    # Acts. Each carries out what the library must be able to do; the plan follows in `run`.

    def carry_out(self, act: e.Act) -> None:  # noqa: C901, PLR0912
        """Carry out an act with the library."""
        torch.default_generator.manual_seed(self.example.network.seed)
        match act:
            case e.Add():
                self._add(act)
            case e.Activate(adapters=names, through_tuner=through_tuner):
                if len(names) == 1 and not through_tuner:
                    self.model.set_adapter(names[0])
                else:
                    self.model.base_model.set_adapter(names[0] if len(names) == 1 else [*names])
            case e.Disable(within=False):
                self.model.base_model.disable_adapter_layers()
            case e.Enable():
                self.model.base_model.enable_adapter_layers()
            case e.Mode(training=training):
                self.model.train(training)
            case e.Fill(seed=seed):
                self._fill(self._filled(), seed)
                self.forget(*self.plan.active)
            case e.Train():
                self._train(act)
            case e.Merge(adapters=names, safe=safe, broken=False):
                keywords = {"safe_merge": True} if safe else {}
                self.model.merge_adapter(None if names is None else [*names], **keywords)
            case e.Unmerge():
                self.model.unmerge_adapter()
            case e.SaveLoad():
                self._save_load(act)
            case e.LoadBeside(adapter=adapter, name=name, trainable=trainable):
                place = library.saved_in(self.save([adapter]), adapter)
                library.load_beside(
                    self.model, place, name, trainable=trainable, autocast=self.example.autocast
                )
                # A file has the configured scale, whatever was set since.
                if (adapter,) in self.known and adapter not in self.plan.scales:
                    self.known[name,] = self.known[adapter,]
            case e.Delete(adapter=name):
                self.model.delete_adapter(name)
                self.forget(name)
            case e.Weighted():
                combine(self, act)
            case e.Scale(adapter=name, scale=scale):
                for _, module in owned.holders(self.model):
                    if name in owned.adapters_of(module) and hasattr(module, "set_scale"):
                        module.set_scale(name, scale)  # type: ignore[operator]
                self.forget(name)
            case e.HotSwap():
                self._hot_swap(act)
            case e.Copy():
                self.model = deepcopy(self.model)
                self.optimizer = None
            case e.Convert():
                self._convert(act)

    def save(self, adapters: list[str] | None = None) -> Path:
        """Save adapters into a new folder."""
        self.saves += 1
        folder = self.folder / str(self.saves)
        library.save(self.model, folder, adapters)
        return folder

    def _add(self, act: e.Add) -> None:
        settings = adapter_settings(self.example, act.adapter)
        config = library.configuration(self.method, settings)
        keywords = library.autocast_argument(self.model.add_adapter, autocast=self.example.autocast)
        self.model.add_adapter(act.adapter, config, **keywords)

    def _live(self) -> list[Tensor]:
        """Return what must train now: the trainable adapters' parameters and the base's biases."""
        return [tensor for tensor in self.model.parameters() if tensor.requires_grad]

    def _filled(self) -> list[Tensor]:
        """Return what `Fill` is about: what trains of the active adapters, and the base's biases.

        What wrongly trains beside it, such as AdaLoRA's `ranknum`, is for another check.
        """
        owners = owned.owners(self.model)
        wrong = {
            id(tensor)
            for _, module in owned.holders(self.model)
            if self.method.trains and owned.is_tuner_layer(module)
            for name in self.plan.active
            for key, tensor in owned.held(module, name).items()
            if not key.startswith(self.method.trains)
        }
        return [
            tensor
            for tensor in self._live()
            if owners.get(id(tensor)) in self._acting() and id(tensor) not in wrong
        ]

    def _acting(self) -> frozenset[str | None]:
        return frozenset({None, *self.plan.active})

    def _fill(self, tensors: list[Tensor], seed: int) -> None:
        generator = torch.Generator().manual_seed(1000 + seed)
        with torch.no_grad():
            for tensor in tensors:
                if tensor.is_floating_point():
                    noise = torch.randn(tensor.shape, generator=generator) * FILL
                    tensor.add_(noise.to(tensor.dtype))
        self.adopt_biases()

    def adopt_biases(self) -> None:
        """Take over the biases of the base that adapters train."""
        if not self.plan.has_bias:
            return
        with torch.no_grad():
            for path, module in self.base_layers():
                mine = dict(self.reference.get_submodule(path).named_parameters())
                for name, tensor in module.named_parameters():
                    if name in mine and name.endswith("bias"):
                        mine[name].copy_(tensor)
                        self.replaced.pop(f"{path}.{name}", None)
        self.known.clear()
        self.renew_oracle()

    def _train(self, act: e.Train) -> None:
        if self.optimizer is None or not act.keep_optimizer:
            self.optimizer = torch.optim.SGD(self._live(), lr=1.0)
            self.optimized = frozenset(self.plan.active)
        for _ in range(act.steps):
            self.optimizer.zero_grad(set_to_none=True)
            output = self.model(self.x).float()
            if not output.requires_grad and self.draws():
                continue  # dropout has left out all that trains
            weights = torch.randn(
                output.shape, generator=torch.Generator().manual_seed(self.example.network.seed)
            )
            (output * weights).sum().backward()
            for group in self.optimizer.param_groups:
                for tensor in group["params"]:
                    if tensor.grad is not None and tensor.numel():
                        gradient = tensor.grad.float()  # float16 does not hold 1 / small
                        largest = gradient.abs().max()
                        if largest > 0:
                            tensor.grad.copy_(gradient * (STEP / largest))
            self.optimizer.step()
        self.forget(*self.plan.active)
        self.adopt_biases()

    def draws(self) -> bool:
        """Return whether dropout of an active adapter draws random numbers now."""
        settings = {name: self.plan.settings[name] for name in self.plan.active}
        return self.plan.training and any(
            self.method.draws_in_training(e.Adapter(name=name, settings=dict(each)))
            for name, each in settings.items()
            if each is not None
        )

    def _save_load(self, act: e.SaveLoad) -> None:
        folder = self.save()
        self.check_saved_keys(folder)
        names = [*self.plan.settings]
        autocast = self.example.autocast
        loaded = library.load(
            deepcopy(self.origin), folder, names[0], trainable=act.trainable, autocast=autocast
        )
        for name in names[1:]:
            library.load_beside(
                loaded,
                library.saved_in(folder, name),
                name,
                trainable=act.trainable,
                autocast=autocast,
            )
        active = self.plan.active
        if len(active) > 1:
            loaded.base_model.set_adapter([*active])
        elif active[0] != names[0] or (act.trainable and len(names) > 1):
            loaded.set_adapter(active[0])
        loaded.eval()
        self._check_configuration(loaded)
        self.model, self.optimizer = loaded, None
        self.forget(*self.plan.scales)
        self._give_back_weights()

    def _give_back_weights(self) -> None:
        """Take the weights of the fresh base, in place of those that unmerging had rounded."""
        if not self.replaced:
            return
        with torch.no_grad():
            for where, weight in self.replaced.items():
                self.reference.get_parameter(where).copy_(weight)
        self.replaced.clear()
        self.renew_oracle()
        if next(self.reference.parameters()).dtype not in bounds.HALF:
            self.known.clear()  # of the rounded weights

    def _check_configuration(self, loaded: Any) -> None:
        """Raise NotHeldError if a loaded configuration differs, or loading changes what it gets."""
        import peft

        for name, settings in self.plan.settings.items():
            for key in settings or ():
                saved = getattr(self.model.peft_config[name], key)
                found = getattr(loaded.peft_config[name], key)
                if found != saved and key != "inference_mode":
                    fail("loaded", f"{key} of {name} was {saved!r} and is loaded as {found!r}.")
            state = peft.get_peft_model_state_dict(loaded, adapter_name=name)
            keys = sorted(state)
            peft.set_peft_model_state_dict(loaded, state, adapter_name=name)
            if sorted(state) != keys:
                fail("loaded", f"Loading a state dict into {name} has changed the caller's dict.")

    def check_saved_keys(self, folder: Path) -> None:
        """Raise NotHeldError if an adapter's file has a tensor of another adapter."""
        from safetensors import safe_open

        for name in self.plan.settings:
            path = library.saved_in(folder, name) / "adapter_model.safetensors"
            with safe_open(path, "pt") as file:
                saved = set(file.keys())
            mine = {form for key, bare in self._keys(name) for form in (key, bare)}
            for other in self.plan.settings:
                if other == name:
                    continue
                for key, bare in self._keys(other):
                    # A careless removal of this adapter's name changes the other's key.
                    forms = {key, bare, key.replace(f".{name}", ""), key.replace(name, "")}
                    if forms & (saved - mine):
                        message = f"The file of {name} holds {key} of {other}."
                        fail("saved_keys", message)

    def _keys(self, adapter: str) -> list[tuple[str, str]]:
        """Return the keys of an adapter's tensors, with and without its name."""
        return [
            (f"{path}.{key}", f"{path}.{key.replace(f'.{adapter}', '', 1)}")
            for path, module in owned.holders(self.model)
            for key in owned.held(module, adapter)
        ]

    def _hot_swap(self, act: e.HotSwap) -> None:
        try:
            from peft.utils import hotswap
        except ImportError as error:
            message = "the installed peft has no hot-swapping"
            raise AbsentError(message) from error

        name = act.adapter
        tensors = [
            tensor
            for _, module in owned.holders(self.model)
            for tensor in owned.held(module, name).values()
        ]
        own = [tensor.detach().clone() for tensor in tensors]
        self._fill(tensors, 77)
        scales = {key: value for key, value in self.plan.scales.items() if key != name}
        plan = replace(self.plan, scales=scales)
        new = oracle.parameters(self.oracle, self.model, plan, self.method, (name,))
        folder = library.saved_in(self.save([name]), name)
        with torch.no_grad():
            for tensor, value in zip(tensors, own, strict=True):
                tensor.copy_(value)
        if act.target_rank is not None:
            trains = {key for key, tensor in self.model.named_parameters() if tensor.requires_grad}
            hotswap.prepare_model_for_compiled_hotswap(self.model, target_rank=act.target_rank)
            for key, tensor in self.model.named_parameters():
                if tensor.requires_grad and key not in trains:
                    fail("frozen", f"{key} trains since the model is prepared for swaps.")
        hotswap.hotswap_adapter(self.model, str(folder), name, torch_device="cpu")
        self.optimizer = None
        self.forget(name)
        if new is not None:
            self.known[name,] = self.oracle.output(new)

    def _convert(self, act: e.Convert) -> None:
        self.known.clear()
        for module in (self.model, self.origin, self.reference):
            if act.dtype is not None:
                module.to(networks.DTYPES[act.dtype])
            if act.channels_last is not None:
                layout = torch.channels_last if act.channels_last else torch.contiguous_format
                networks.lay_out(module, layout)
        if act.dtype is not None and self.x.is_floating_point():
            self.x = self.x.to(networks.DTYPES[act.dtype])
        self.renew_oracle()
        self.check_base()
