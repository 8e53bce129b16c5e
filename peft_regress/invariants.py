"""The facts that must hold in every version of a library; `measure.invariants` checks them.

A row says all that pages, reports and reproductions say of an invariant. Their order is that of
what they mean to a training: reports keep it.
"""

from typing import NamedTuple

from peft_regress.metrics import METRICS


class Invariant(NamedTuple):
    """A fact that holds, does not, or does not apply."""

    promise: str
    """What must hold."""
    broken: str
    """What it means if it does not hold."""
    null: str = ""
    """Where it does not apply; empty if it always does."""
    shown_by: tuple[str, ...] = ()
    """The facts of a reproduction script that show it."""
    needs_inputs: bool = False
    """Whether it does not apply to other weights or data than the reference's."""


_NO_PEFT = "without an adapter in layers of peft"
_NO_SWITCH = "without an adapter that can be off"

EDGE_INVARIANTS: dict[str, Invariant] = {
    "edge_programs_run": Invariant(
        "all three programs are exported and run; if false, its note is what ExecuTorch says",
        "a program cannot be exported, or does not run",
    ),
    "edge_kernels_exist": Invariant(
        "each operator has a portable kernel", "an operator has no portable kernel"
    ),
    "edge_losses_equal_eager": Invariant(
        "two steps of SGD give PyTorch's losses: within 1e-5 of the first and 2e-4 of the second",
        "the exported training computes other losses",
    ),
    "edge_gradients_equal_eager": Invariant(
        "each gradient of the first step is within 2 % of its norm",
        "the exported training computes other gradients",
    ),
    "edge_outputs_equal_eager": Invariant(
        "the forward pass gives PyTorch's output, within 3e-5 of the largest number",
        "the exported model computes another output",
    ),
    "edge_merged_outputs_equal_eager": Invariant(
        "the same of the merged model", "the exported merged model computes another output"
    ),
}
"""Those that `measure.edge` checks where a case asks for them."""

INVARIANTS: dict[str, Invariant] = {
    "identity_at_init": Invariant(
        "the adapted, untrained model computes what the source model does",
        "an untrained adapter changes the output",
        "where the method starts elsewhere",
        ("identity_at_start",),
    ),
    "expected_trainable": Invariant(
        "the trained parameters have the names and shapes that the method's rule derives, before "
        "and after training",
        "other parameters train than the method says",
        "without a rule",
        ("trainable_params",),
    ),
    "frozen_unchanged": Invariant(
        "everything else, buffers included, is bit-identical after training (except running "
        "statistics of bn_head)",
        "training changes what is frozen",
    ),
    "trainable_changed": Invariant(
        "every tensor that must train has changed", "a tensor that should train does not"
    ),
    "projections_renewed": Invariant(
        "after training, GaLore projects by other vectors than after the first step",
        "projections are not renewed",
        "without projections",
    ),
    "training_keeps_no_memory": Invariant(
        "from the third step to the last, memory grows by at most 32 KiB and 1 KiB a step",
        "training keeps ever more memory",
        "without glibc 2.33 or later, and on a GPU",
    ),
    "late_step_costs_same": Invariant(
        "a step after the training takes no more operators and FLOPs than the second",
        "late steps cost more than early ones",
        "where the loss does not stay finite",
    ),
    "lean_trains_alike": Invariant(
        "each loss of a lean model is that of the plain one, bit for bit",
        "a lean model trains otherwise than a plain one",
    ),
    "merge_equals_unmerged": Invariant(
        "merging the adapter does not change the trained output",
        "merging changes the output",
        "without an adapter that merges",
        ("merged_equals_unmerged",),
    ),
    "unmerge_restores_base": Invariant(
        "merging a filled adapter in place and unmerging it leaves every tensor as it was, twice, "
        "and beside a second adapter",
        "unmerging does not restore the weights",
        _NO_PEFT,
    ),
    "refused_merge_keeps_base": Invariant(
        "with a NaN in the adapter a safe merge raises `ValueError`, and the base stays "
        "bit-identical",
        "a safe merge damages the weights",
        "where no NaN gets into what is merged",
    ),
    "disabled_equals_base": Invariant(
        "with a filled, disabled adapter the output is the source model's",
        "a disabled adapter changes the output",
        "where wrapping alters the source's weights or layers (PiSSA)",
    ),
    "toggling_keeps_trainable": Invariant(
        "after disabling and enabling, and after `eval()` and `train()`, the same parameters train "
        "and the output is as before",
        "switching it off and on changes the adapter",
        _NO_SWITCH,
    ),
    "paths_agree": Invariant(
        "a filled adapter gives one output by gradients, mode, memory format, autocast, rows of a "
        "mixed batch and weights; safely merged that of the merged model, off in training or "
        "unloaded the base's",
        "a way to run the adapter gives another output",
        "where it cannot be off",
    ),
    "state_kept": Invariant(
        "saving, merging and unmerging, loading and switching leave modes, dropout, what trains, "
        "other adapters and globals",
        "saving, loading, merging or switching changes another state",
        _NO_PEFT,
    ),
    "adapters_do_not_leak": Invariant(
        "a second adapter and the first do not touch each other's tensors and output; if both are "
        "active, each has a part in it",
        "two adapters affect each other",
        _NO_PEFT,
    ),
    "delete_leaves_nothing": Invariant(
        "after the second adapter was deleted nothing names it, and tensors, trainable set and "
        "output are as before",
        "a deleted adapter leaves something behind",
        _NO_PEFT,
    ),
    "doubled_rank_not_smaller": Invariant(
        "at twice the rank the parameters train that the method's rule derives",
        "a doubled rank trains other parameters than it should",
        "without a rank",
    ),
    "dtypes_as_asked": Invariant(
        "the source's weights and every layer's output have the source's type; the adapter is "
        "float32",
        "weights or outputs have another type",
    ),
    "channels_last_kept": Invariant(
        "if the source model keeps images channels last, so does the adapted model",
        "a layer turns images out of channels last",
        "without such a layer",
    ),
    "saved_adapter_reloads": Invariant(
        "saved over an older adapter and loaded into a fresh model, all that trains has the same "
        "numbers, and the output is the same; another shape is refused, an absent tensor is named",
        "a saved adapter does not load as it was",
        "without a way to save",
    ),
    "reload_keeps_trainable": Invariant(
        "an adapter loaded for training trains; one loaded for inference does not",
        "a loaded adapter trains where it should not, or does not where it should",
        _NO_PEFT,
    ),
    "resumed_equals_uninterrupted": Invariant(
        "adapter, optimizer and schedule, saved and loaded, give the next three losses",
        "a resumed training is another one",
        "where they cannot be saved, or the optimizer has hooks",
    ),
    "stored_adapter_loads": Invariant(
        "an adapter that was stored with the baseline loads, and gives the same output as then",
        "adapters saved by the baseline's version no longer load as they were",
        "without a stored adapter, and for other inputs than its",
        needs_inputs=True,
    ),
    **EDGE_INVARIANTS,
}

KNOWN: tuple[str, ...] = (*METRICS, *INVARIANTS)
"""What this package can measure, for the run files that it writes."""
