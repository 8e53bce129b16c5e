"""Make GaLore's projector accept convolution weights. Imports torch: import it late."""

from typing import Any

from galore_torch.galore_projector import GaLoreProjector
from torch import Size, Tensor


class FlatteningProjector(GaLoreProjector):  # type: ignore[misc]  # galore_torch has no types
    """The stock projector, with a convolution seen as the matrix (out, in * height * width).

    The library passes a gradient of any shape to `torch.linalg.svd` and raises for four dimensions.
    For a matrix this class does exactly the same as the stock projector.
    """

    _shape: Size

    def project(self, full_rank_grad: Tensor, iter: int) -> Tensor:  # noqa: A002  (library's name)
        """Return the gradient in the subspace.

        full_rank_grad: (out, in, height, width) or (out, in); result: (out, rank) if out is the
        larger side, otherwise (rank, in * height * width).
        """
        self._shape = full_rank_grad.shape
        low_rank: Tensor = super().project(full_rank_grad.flatten(start_dim=1), iter)
        return low_rank

    def project_back(self, low_rank_grad: Tensor) -> Tensor:
        """Return the update in the shape of the weight, scaled."""
        full_rank: Tensor = super().project_back(low_rank_grad)
        return full_rank.view(self._shape)


class CloningProjector(FlatteningProjector):
    """The same, but keep only the singular vectors in use.

    The library takes a slice of the first `rank` vectors, which keeps the whole matrix alive.
    """

    def get_orthogonal_matrix(self, weights: Tensor, rank: int, type: str) -> Any:  # noqa: A002
        """Return the first `rank` singular vectors of a side, in their own storage."""
        return super().get_orthogonal_matrix(weights, rank, type).clone()
