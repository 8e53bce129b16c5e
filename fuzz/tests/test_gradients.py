"""The gradients of an adapter are compared with those of its method's formula."""

from __future__ import annotations

import pytest
import torch
from msgspec.structs import replace
from peft.tuners.loha import layer as loha
from peft.tuners.lora import dora

from peft_fuzz.acts import Fill, Merge, Mode, Train, Unmerge
from peft_fuzz.example import Example
from peft_fuzz.networks.network import Adapter, Layer, Network
from peft_fuzz.run import run

LINEAR = Layer(name="layer0", kind="linear", inputs=6, outputs=4)
CONVOLUTION = Layer(name="layer0", kind="conv2d", inputs=4, outputs=6, kernel=(3, 3))


def filled(method, layer=LINEAR, **settings):
    sizes = (4, 4) if layer is CONVOLUTION else ()
    return Example(
        network=Network(layers=(layer,), sizes=sizes),
        method=method,
        adapters=(Adapter(name="a", settings={"target_modules": ["layer0"], **settings}),),
        acts=(Fill(),),
    )


@pytest.mark.parametrize("layer", [LINEAR, CONVOLUTION], ids=["linear", "convolution"])
@pytest.mark.parametrize("method", ["lora", "dora", "loha", "lokr", "ia3", "hra", "oft"])
def test_right_gradients_pass(method, layer, tmp_path):
    settings = {"r": 2} if method not in {"ia3", "oft"} else {}
    outcome = run(filled(method, layer, **settings), tmp_path)
    if outcome.failure is not None:  # docs/findings has some of these methods on convolutions
        assert outcome.failure.check != "gradient"


def test_a_gradient_through_the_norm_of_dora_is_seen(tmp_path, monkeypatch):
    class Kept(torch.Tensor):
        """Stays in the graph, and so does what is computed from it."""

        def detach(self):
            return self

    own = dora.DoraLinearLayer.get_lora_weight

    def kept(self, *args, **keywords):
        return own(self, *args, **keywords).as_subclass(Kept)

    one = filled("dora", r=2)
    assert run(one, tmp_path / "right").failure is None
    monkeypatch.setattr(dora.DoraLinearLayer, "get_lora_weight", kept)
    failure = run(one, tmp_path / "wrong").failure
    assert failure is not None
    assert failure.check == "gradient"


def test_swapped_gradients_of_loha_are_seen(tmp_path, monkeypatch):
    own = loha.HadaWeight.backward

    def swapped(ctx, grad):
        w1a, w1b, w2a, w2b, scale = own(ctx, grad)
        return w2a, w2b, w1a, w1b, scale

    one = filled("loha", r=2)
    (tmp_path / "right").mkdir()
    assert run(one, tmp_path / "right").failure is None
    monkeypatch.setattr(loha.HadaWeight, "backward", staticmethod(swapped))
    failure = run(one, tmp_path).failure
    assert failure is not None
    assert failure.check == "gradient"
    assert "The gradient of layer0.hada_w1_a of adapter a differs" in failure.message


def test_a_life_is_as_before_after_the_comparison(tmp_path):
    """It leaves no gradient, and modes as they were."""
    acts = (Mode(training=True), Fill(), Train(), Merge(), Unmerge())
    one = replace(filled("lora", r=2), acts=acts)
    assert run(one, tmp_path).failure is None
