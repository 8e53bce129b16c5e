"""Memory against torch's own MemTracker on real tensors, in total and by category, to the byte."""

from collections import Counter, OrderedDict

import pytest
from network_zoo import NETWORKS, adapted, fake_cost, pairings, real_step
from torch.utils.hooks import RemovableHandle

from peft_regress.gc_pause import paused_gc

mem_tracker = pytest.importorskip("torch.distributed._tools.mem_tracker")


FLOAT = 4
# By their names here; what MemTracker calls Other are the images and labels that it is told of.
CATEGORIES = {
    "Parameter": "param",
    "Buffer": "buffer",
    "Gradient": "grad",
    "Activation": "activation",
    "Other": "activation",
    "Temp": "temp",
    "Optstate": "optimizer",
    "Total": "total",
}


class Tracker(mem_tracker.MemTracker):
    """MemTracker, which would hook frozen parameters too and fail; and each category's high."""

    def __init__(self):
        super().__init__()
        self.highs = Counter()

    def _track_module_params_and_buffers(self, module, install_grad_hooks=True):
        no_hook = RemovableHandle(OrderedDict())
        for parameter in module.parameters():
            if not parameter.requires_grad:
                # It installs no second hook where it finds one.
                self._param_to_grad_hook_handles.setdefault(parameter, (no_hook, no_hook))
        return super()._track_module_params_and_buffers(module, install_grad_hooks)

    def _update_peak_stats(self, peak_state):
        super()._update_peak_stats(peak_state)
        self.highs |= by_category(self.get_tracker_snapshot())


def by_category(snapshot):
    (held,) = snapshot.values()
    found = Counter()
    for key, size in held.items():
        found[CATEGORIES[getattr(key, "value", key)]] += size
    return found


def tracked(name, method):
    """Track the second of two steps; return what was held at its peak, and each one's high."""
    step = real_step(adapted(name, method), NETWORKS[name].shape)
    step.run()
    tracker = Tracker()
    tracker.track_external(step.model, step.optimizer, step.images, step.labels)
    with paused_gc(), tracker:
        step.run()
    return by_category(tracker.get_tracker_snapshot("peak")), tracker.highs


@pytest.mark.parametrize(("name", "method"), pairings("MemTracker"))
def test_every_category_at_the_peak_is_mem_tracker_s(name, method):
    peak, highs = tracked(name, method)
    cost = fake_cost(name, method)

    # The gradient of the loss is made before the engine starts, so MemTracker takes it for an
    # activation. It lives as long as the backward pass.
    if cost.peak_phase == "backward":
        peak += Counter(temp=FLOAT)
        peak -= Counter(activation=FLOAT)
    held = Counter(total=cost.peak_bytes)
    for site in cost.bytes_at_peak:
        held[site.category] += site.bytes
    assert held == peak

    # Where activations are at their most as the backward pass begins, that gradient is among them.
    loss_gradient = highs["activation"] - cost.peak_activation_bytes
    assert loss_gradient in {0, FLOAT}
    assert highs == Counter(
        param=cost.peak_param_bytes,
        buffer=cost.peak_buffer_bytes,
        grad=cost.peak_grad_bytes,
        activation=cost.peak_activation_bytes + loss_gradient,
        temp=cost.peak_temp_bytes - FLOAT,
        optimizer=cost.peak_optimizer_bytes,
        total=cost.peak_bytes,
    )
