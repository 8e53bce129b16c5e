"""What peft could get wrong in adapters of a language model."""

from contextlib import nullcontext
from dataclasses import replace

import torch

from fault_catalogue.fault import Faults, fault


class LanguageModel(Faults, area="language model"):
    @fault(at="peft.tuners.vera.model:_kaiming_init")
    def vera_projection_ignores_its_key(original, shape, generator):
        """VeRA's frozen matrices are not those of the key in its configuration."""
        return original(shape, generator.manual_seed(1))

    @fault(at="peft.tuners.vera.layer:Linear.get_delta_weight")
    def vera_merge_forgets_a_vector(_original, self, adapter):
        """Merging VeRA leaves the vector d out."""
        b = self.vera_lambda_b[adapter].unsqueeze(-1) * self.vera_B[adapter][: self.out_features]
        return b @ self.vera_A[adapter][:, : self.in_features]

    @fault(at="peft.tuners.ia3.layer:Linear.reset_ia3_parameters")
    def ia3_stays_as_drawn(_original, _self, _adapter):
        """The factors of IA3 start at random numbers instead of 1."""

    @fault(at="peft.tuners.ia3.layer:Linear.merge")
    def ia3_merge_forgets_feedforward(original, self, **settings):
        """Merging IA3 leaves the weights of feed-forward layers as they are."""
        weight = self.get_base_layer().weight.data
        original(self, **settings)
        if self.is_feedforward:
            self.get_base_layer().weight.data = weight

    @fault(at="peft.peft_model:PeftModel.disable_adapter")
    def prefix_disabled_stays_on(_original, _self):
        """Disabling a prefix leaves it on."""
        return nullcontext()

    @fault(at="peft.tuners.fourierft.layer:FourierFTLinear.update_layer")
    def fourierft_frequencies_of_another_seed(original, self, *args, config, **kwargs):
        """FourierFT's frequencies are not those of the seed in its configuration."""
        original(self, *args, config=replace(config, random_loc_seed=1), **kwargs)

    @fault(at="peft.tuners.fourierft.layer:FourierFTLinear.update_layer")
    def fourierft_scaling_ignored(original, self, *args, config, **kwargs):
        """FourierFT is scaled by 150, its default, whatever the configuration says."""
        original(self, *args, config=replace(config, scaling=150.0), **kwargs)

    @fault(at="torch.fft:ifft2")
    def fourierft_computed_in_float64(original, spectrum):
        """FourierFT transforms its spectrum in double precision."""
        return original(spectrum.double())

    @fault(at="peft.tuners.fourierft.layer:transpose")
    def fourierft_merge_transposes(_original, update, _fan_in_fan_out):
        """Merging FourierFT transposes the update of a square layer."""
        return update.T if update.shape[0] == update.shape[1] else update

    @fault(at="peft.tuners.oft.layer:Linear.reset_oft_parameters")
    def oft_starts_rotated(original, self, adapter, _init_weights):
        """OFT starts at small random rotations instead of none."""
        original(self, adapter, init_weights=False)

    @fault(at="peft.tuners.oft.layer:OFTRotationModule._cayley_batch")
    def oft_computed_in_float64(original, self, q, *args):
        """OFT computes its rotations in double precision."""
        return original(self, q.double(), *args).to(q.dtype)

    @fault(at="peft.tuners.oft.layer:Linear.get_delta_weight")
    def oft_merge_turns_the_other_way(original, self, adapter):
        """Merging OFT rotates in the other direction."""
        return original(self, adapter).T

    @fault(at="peft.tuners.oft.layer:OFTRotationModule._cayley_batch")
    def oft_loses_a_term_late(original, self, q, size, neumann, terms):
        """From the tenth step on OFT's series has one term less."""
        self.steps = getattr(self, "steps", 0) + torch.is_grad_enabled()
        return original(self, q, size, neumann, terms - (self.steps > 9))
