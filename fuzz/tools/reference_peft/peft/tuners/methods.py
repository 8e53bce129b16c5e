"""LoRA, DoRA, LoHa, LoKr and (IA)^3 by their papers' formulas."""

from math import isqrt
from typing import Any

import torch
from torch import Tensor, nn

from peft.configs import IA3Config, LoHaConfig, LoKrConfig, LoraConfig, PeftConfig
from peft.tuners.tuners_utils import BaseTunerLayer

CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
START = 0.3


def is_transposed(layer: nn.Module) -> bool:
    """Return whether a weight is (inputs, outputs)."""
    return isinstance(layer, nn.Embedding) or type(layer).__name__ == "Conv1D"


def drawn(*shape: int, on: bool = True) -> Tensor:
    """Return random numbers, or zeros."""
    return torch.randn(*shape) * START if on else torch.zeros(*shape)


def is_up(key: str) -> bool:
    """Return whether a tensor of LoRA is its B."""
    return key.removesuffix(".weight").endswith("B")


def factors(number: int) -> tuple[int, int]:
    """Return two factors, as near to each other as can be, the smaller one first."""
    small = next(one for one in range(isqrt(number), 0, -1) if number % one == 0)
    return small, number // small


class LoraLayer(BaseTunerLayer):
    """W + s B A; with DoRA m (W + s B A) / ||W + s B A||, a norm for each output."""

    containers = (
        "lora_A.weight",
        "lora_B.weight",
        "lora_embedding_A",
        "lora_embedding_B",
        "lora_magnitude_vector",
    )

    def make(self, config: LoraConfig) -> dict[str, Tensor]:
        """Return A, B and, for DoRA, the norms of the weight."""
        base: Any = self.base_layer
        rank, starts = config.rank(self.path), config.init_lora_weights is False
        weight = base.weight.detach().float()
        found: dict[str, Tensor]
        if isinstance(base, nn.Embedding):
            found = {
                "lora_embedding_A": drawn(rank, base.num_embeddings),
                "lora_embedding_B": drawn(base.embedding_dim, rank, on=starts),
            }
        elif isinstance(base, CONVOLUTIONS):
            ones = (1,) * len(base.kernel_size)
            found = {
                "lora_A.weight": drawn(rank, base.in_channels, *base.kernel_size),
                "lora_B.weight": drawn(base.out_channels, rank, *ones, on=starts),
            }
        else:
            inputs, outputs = weight.shape if is_transposed(base) else reversed(weight.shape)
            found = {
                "lora_A.weight": drawn(rank, inputs),
                "lora_B.weight": drawn(outputs, rank, on=starts),
            }
        if config.use_dora:
            if getattr(base, "groups", 1) > 1:
                raise ValueError("DoRA does not support grouped convolutions")
            delta = self.delta(found, config.scaling(self.path))
            found["lora_magnitude_vector"] = self.norms(weight + delta)
        return found

    def norms(self, weight: Tensor) -> Tensor:
        """Return the norm of each output's weights."""
        rows = weight.T if is_transposed(self.base_layer) else weight
        norms: Tensor = torch.linalg.vector_norm(rows.flatten(1), dim=1)
        return norms

    def delta(self, tensors: dict[str, Tensor], scaling: float) -> Tensor:
        """Return s B A, laid out like the weight."""
        if "lora_embedding_A" in tensors:
            up, down = tensors["lora_embedding_B"], tensors["lora_embedding_A"]
        else:
            up, down = tensors["lora_B.weight"], tensors["lora_A.weight"]
        product = scaling * up.float().flatten(1) @ down.float().flatten(1)
        product = product.reshape(up.shape[0], *down.shape[1:])
        return product.T if is_transposed(self.base_layer) else product

    def changed(self, own: dict[str, Tensor], name: str, *, draws: bool) -> dict[str, Tensor]:
        """Return the weight with the update, rescaled for DoRA."""
        del draws
        base: Any = self.base_layer
        if getattr(base, "groups", 1) > 1:
            raise NotImplementedError("Merging is not supported for _ConvNd layers with groups")
        tensors = self.tensors(name)
        weight = own["weight"] + self.delta(dict(tensors), self.scaling[name])
        if "lora_magnitude_vector" in tensors:
            factor = tensors["lora_magnitude_vector"].float() / self.norms(weight).detach()
            along = (1, -1) if is_transposed(base) else (-1, *(1,) * (weight.dim() - 1))
            weight = weight * factor.reshape(along)
        return {**own, "weight": weight}

    def output(self, x: Tensor, names: list[str]) -> Tensor:
        """Return W x + s B A x; DoRA by its weight."""
        if any("lora_magnitude_vector" in self.tensors(name) for name in names):
            return super().output(x, names)
        result: Tensor = self.base_layer(x)
        for name in names:
            result = result + self.thin(x, name).to(result.dtype)
        return result

    def thin(self, x: Tensor, name: str) -> Tensor:
        """Return s B A x."""
        base: Any = self.base_layer
        tensors = self.tensors(name)
        if "lora_embedding_A" in tensors:
            rows = tensors["lora_embedding_A"].float().T[x]
            return rows @ tensors["lora_embedding_B"].float().T * self.scaling[name]
        down, up = tensors["lora_A.weight"].float(), tensors["lora_B.weight"].float()
        x = nn.functional.dropout(
            x.float(), self.settings[name].lora_dropout, training=self.training
        )
        if not isinstance(base, CONVOLUTIONS):
            return x @ down.T @ up.T * self.scaling[name]
        convolve = {1: nn.functional.conv1d, 2: nn.functional.conv2d, 3: nn.functional.conv3d}
        run = convolve[len(base.kernel_size)]
        if base.padding_mode == "zeros":
            inner = run(x, down, None, base.stride, base.padding, base.dilation)
        else:
            # What the layer itself pads with, on each side of each dimension.
            x = nn.functional.pad(x, base._reversed_padding_repeated_twice, base.padding_mode)  # noqa: SLF001
            inner = run(x, down, None, base.stride, 0, base.dilation)
        return run(inner, up) * self.scaling[name]


class LoHaLayer(BaseTunerLayer):
    """W + s (w1a w1b) o (w2a w2b)."""

    containers: tuple[str, ...] = ("hada_w1_a", "hada_w1_b", "hada_w2_a", "hada_w2_b")

    def make(self, config: LoHaConfig) -> dict[str, Tensor]:
        """Return the four factors."""
        base: Any = self.base_layer
        rank, (outputs, *inputs) = config.rank(self.path), base.weight.shape
        n = torch.Size(inputs).numel()
        return {
            "hada_w1_a": drawn(outputs, rank),
            "hada_w1_b": drawn(rank, n),
            "hada_w2_a": drawn(outputs, rank, on=not config.init_weights),
            "hada_w2_b": drawn(rank, n),
        }

    def update(self, name: str) -> Tensor:
        """Return the update without its scale, (outputs, inputs of a group * kernel)."""
        one, two, three, four = (tensor.float() for tensor in self.tensors(name).values())
        return (one @ two) * (three @ four)

    def changed(self, own: dict[str, Tensor], name: str, *, draws: bool) -> dict[str, Tensor]:
        """Return the weight with the update; in training, rows or all of it may be left out."""
        config = self.settings[name]
        if draws and torch.rand(1) < config.module_dropout:
            return own
        update = self.update(name).reshape(own["weight"].shape) * self.scaling[name]
        if draws and config.rank_dropout:
            kept = torch.rand(len(update)) > config.rank_dropout
            update = update * kept.reshape(-1, *(1,) * (update.dim() - 1))
        return {**own, "weight": own["weight"] + update}


class LoKrLayer(LoHaLayer):
    """W + s w1 (x) w2; w2, and with `decompose_both` also w1, a product of two."""

    containers = ("lokr_w1", "lokr_w1_a", "lokr_w1_b", "lokr_w2_a", "lokr_w2_b")

    def make(self, config: LoKrConfig) -> dict[str, Tensor]:  # type: ignore[override]
        """Return the factors."""
        base: Any = self.base_layer
        rank, (outputs, inputs, *kernel) = config.rank(self.path), base.weight.shape
        (o1, o2), (i1, i2) = factors(outputs), factors(inputs)
        found = {
            "lokr_w2_a": drawn(o2, rank, on=config.init_weights is False),
            "lokr_w2_b": drawn(rank, i2 * torch.Size(kernel).numel()),
        }
        if config.decompose_both:
            return {**found, "lokr_w1_a": drawn(o1, rank), "lokr_w1_b": drawn(rank, i1)}
        return {**found, "lokr_w1": drawn(o1, i1)}

    def update(self, name: str) -> Tensor:
        """Return the Kronecker product, (outputs, inputs of a group, kernel)."""
        tensors = {key: tensor.float() for key, tensor in self.tensors(name).items()}
        first = tensors.get("lokr_w1")
        if first is None:
            first = tensors["lokr_w1_a"] @ tensors["lokr_w1_b"]
        second = tensors["lokr_w2_a"] @ tensors["lokr_w2_b"]
        base: Any = self.base_layer
        inputs = base.weight.shape[1] // first.shape[1]
        second = second.reshape(len(second), inputs, -1)  # (o2, i2, kernel)
        product = torch.einsum("ab,cdk->acbdk", first, second)
        return product.reshape(base.weight.shape)


class IA3Layer(BaseTunerLayer):
    """l o (W x + b), or W (l o x) + b."""

    containers = ("ia3_l",)

    def make(self, config: IA3Config) -> dict[str, Tensor]:
        """Return the factors, ones at the start."""
        base: Any = self.base_layer
        outputs, inputs = base.weight.shape[:2]
        if is_transposed(base):
            outputs, inputs = inputs, outputs
        size = inputs * getattr(base, "groups", 1) if config.scales_inputs(self.path) else outputs
        return {"ia3_l": 1 + drawn(size, on=not config.init_ia3_weights)}

    def changed(self, own: dict[str, Tensor], name: str, *, draws: bool) -> dict[str, Tensor]:
        """Return weight and bias scaled by output, or the weight by input."""
        del draws
        base: Any = self.base_layer
        factor = self.ia3_l[name].float()  # type: ignore[index]
        weight = own["weight"].T if is_transposed(base) else own["weight"]
        ones = (1,) * (weight.dim() - 2)
        found = dict(own)
        if self.settings[name].scales_inputs(self.path):
            groups = getattr(base, "groups", 1)
            by_group = factor.reshape(groups, 1, -1).expand(-1, len(weight) // groups, -1)
            weight = weight * by_group.reshape(len(weight), -1, *ones)
        else:
            weight = weight * factor.reshape(-1, 1, *ones)
            if "bias" in own:
                found["bias"] = own["bias"] * factor
        found["weight"] = weight.T if is_transposed(base) else weight
        return found


def layer_class(config: PeftConfig, module: nn.Module) -> type[BaseTunerLayer]:
    """Return what adapts a layer; raise ValueError if nothing does."""
    found: dict[type, tuple[type[BaseTunerLayer], tuple[type, ...]]] = {
        LoraConfig: (LoraLayer, (nn.Linear, nn.Embedding, *CONVOLUTIONS)),
        LoHaConfig: (LoHaLayer, (nn.Linear, nn.Conv1d, nn.Conv2d)),
        LoKrConfig: (LoKrLayer, (nn.Linear, nn.Conv1d, nn.Conv2d)),
        IA3Config: (IA3Layer, (nn.Linear, nn.Conv2d, nn.Conv3d)),
    }
    layer, kinds = found[type(config)]
    transposes = type(module).__name__ == "Conv1D" and layer in {LoraLayer, IA3Layer}
    if not (isinstance(module, kinds) or transposes):
        raise ValueError(f"{type(config).__name__} does not support {type(module).__name__}")
    return layer
