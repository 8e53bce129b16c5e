"""`TinyNetwork` as an architecture; imports no torch until it is built."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TinyArchitecture:
    """A network of a few thousand parameters, in 4 classes unless more are asked for."""

    name: str = "tiny"
    head: str = "head"
    matrices: tuple[str, ...] = ()

    def build(self, *, num_classes, seed):
        from tiny_network import tiny_network

        return tiny_network(num_classes=num_classes, seed=seed)
