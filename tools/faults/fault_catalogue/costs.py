"""What the cost recorder could get wrong, and memory in use outside the step that is profiled."""

from typing import Final

import torch

from fault_catalogue.fault import Faults, fault

_FORMULA: Final = "peft_regress.cost.operators:formula_of"
_RECORDER: Final = "peft_regress.cost.recorder:StepRecorder"
_BACKWARD: Final = torch.ops.aten.convolution_backward
KEPT: Final[list[object]] = []


class Counting(Faults, area="counting", case="full"):
    @fault(at=_FORMULA)
    def grouped_convolutions_counted_in_full(original, packet):
        """The weight gradient of a grouped convolution counts as if it had no groups."""
        from peft_regress.cost.formulas import paper_formula_of

        return paper_formula_of(packet) if packet is _BACKWARD else original(packet)

    @fault(at=_FORMULA)
    def backward_pass_of_convolutions_not_counted(original, packet):
        """The backward pass of a convolution counts as no work."""
        return (lambda *_, **__: 0) if packet is _BACKWARD else original(packet)

    @fault(at=_FORMULA, stops=True)
    def formula_lost(original, packet):
        """The formula of the convolution is no longer registered."""
        return None if packet is torch.ops.aten.convolution else original(packet)

    @fault(at=(_FORMULA, "peft_regress.cost.operators:does_matrix_work"))
    def operator_without_formula_counted_as_nothing(original, asked):
        """An operator without a formula counts as no work instead of stopping the count."""
        if isinstance(asked, str):
            return False
        return None if asked is torch.ops.aten.convolution else original(asked)

    @fault(at=f"{_RECORDER}._hold_result")
    def optimizer_state_not_counted(original, self, *args):
        """Memory that the optimizer allocates is not counted."""
        if self.phase != "optimizer":
            original(self, *args)

    @fault(at=f"{_RECORDER}._claim_gradient")
    def gradients_counted_as_temporaries(_original, self, *args):
        """An accumulated gradient still counts as a temporary of the backward pass."""

    @fault(at=f"{_RECORDER}._free")
    def frees_missed(_original, self, holding):
        """Memory that was freed still counts."""
        self._holdings.pop(holding.key, None)

    @fault(at=f"{_RECORDER}.mark")
    def first_step_counted_too(original, recorder):
        """The reported step includes the step before it."""
        found = original(recorder)
        recorder.marks = [*getattr(recorder, "marks", ()), found]
        # The first three marks are the start of the first step, and those of its phases.
        return recorder.marks[0] if len(recorder.marks) == 4 else found


class Memory(Faults, area="memory", at="peft.tuners.lora.layer:_ConvNd.forward", case="lora-r4"):
    def input_kept_from_the_fourth_step(original, self, x, **kwargs):
        """From the fourth step on each layer keeps its input in memory after the step."""
        self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
        if torch.is_grad_enabled() and self.steps > 3:
            KEPT.append(x)
        return original(self, x, **kwargs)

    @fault(at="torch.optim.adamw:AdamW._init_group", case="head")
    def gradient_kept_from_the_fourth_step(original, self, group, params, grads, *rest):
        """From the fourth step on Adam keeps one gradient of each step in memory."""
        found = original(self, group, params, grads, *rest)
        self.steps = getattr(self, "steps", 0) + 1
        if self.steps > 3:
            KEPT.append(grads[0])
        return found

    def first_step_has_outputs_twice(original, self, x, **kwargs):
        """In the first step each layer has its output twice until the backward pass."""
        output = original(self, x, **kwargs)
        self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
        if output.requires_grad and self.steps == 1:
            # The graph holds the hook, and the hook the tensor.
            held = torch.empty_like(output)
            output.register_hook(lambda _gradient, _held=held: None)
        return output

    def outputs_kept_in_evaluation(original, self, x, **kwargs):
        """Without gradients each layer keeps its last output in memory."""
        output = original(self, x, **kwargs)
        if torch.is_inference_mode_enabled():
            self.last_output = output
        return output

    @fault(at=("peft.peft_model:get_peft_model_state_dict", "peft:get_peft_model_state_dict"))
    def whole_model_copied_to_save(original, model, *args, **kwargs):
        """Saving the adapter copies the whole model first."""
        copies = [parameter.detach().clone() for parameter in model.parameters()]
        state = original(model, *args, **kwargs)
        del copies
        return state
