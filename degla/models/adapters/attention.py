"""``nn.MultiheadAttention`` with a LoRA that the blocks of this project compute; importing this needs peft.

peft's own class adds the product of its matrices to the base weights before each forward pass and subtracts it
afterwards. That rounds the base weights again and again, and it replaces the parameters, which FSDP2 and shared
parameters do not survive. The class here has peft's names and shapes, so that files fit, but changes no weight.

Shapes: B samples, N positions, W width, r rank.
"""

from typing import Any

from peft.tuners.lora.layer import MultiheadAttention
from torch import Tensor, nn
from torch.func import functional_call

from degla.models.blocks import AdaptedProjection
from degla.models.lora_state import ADAPTER


class LoraAttention(MultiheadAttention, AdaptedProjection):  # type: ignore[misc]  # peft's properties are not declared
    """Attention whose input and output projections have a LoRA each."""

    base_layer: Any
    lora_A: Any
    lora_B: Any
    lora_dropout: Any
    scaling: dict[str, float]

    def reduce(self, x: Tensor) -> Tensor:
        """Return the scaled ``(..., r)`` product of ``(..., W)`` states with the first matrix, after dropout."""
        reduced: Tensor = self.lora_A[ADAPTER](self.lora_dropout[ADAPTER](x)) * self.scaling[ADAPTER]
        return reduced

    @property
    def expansion(self) -> Tensor:
        """The second matrix, ``(3 * W, r)``."""
        weight: Tensor = self.lora_B[ADAPTER].weight
        return weight

    @property
    def out_proj(self) -> nn.Module:
        """The output projection with its LoRA, which peft's class leaves out here."""
        projection: nn.Module = self.base_layer.out_proj
        return projection

    def forward(self, query: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Compute attention as ``nn.MultiheadAttention`` does, for towers that do not compute packed texts.

        Args:
            query: ``(B, N, W)``.
            args: as ``nn.MultiheadAttention`` takes them.
            kwargs: likewise.

        Returns:
            What ``nn.MultiheadAttention`` returns. Dropout of the adapter is not applied.
        """
        layers: dict[str, Any] = {"in_proj_weight": self, "out_proj.base_layer.weight": self.base_layer.out_proj}
        base = dict(self.base_layer.named_parameters())
        weights = {name: base[name] + layer.get_delta_weight(ADAPTER) for name, layer in layers.items()}
        return functional_call(self.base_layer, weights, (query, *args), kwargs)

    def _restore_weights(self) -> None:
        """Do nothing: peft registers the base weights anew here, because its class takes them out of the module."""
