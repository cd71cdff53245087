r"""An encoder of one's own in one file: the colours of a patch on a grid of 2 x 2.

tiacf extract --plugin own_encoder.py --encoder colour-grid --img-input slides/ --output-path bags/
tiacf train --bags bags/ --table TABLE --time-unit months --output-path trained/
tiacf predict --plugin own_encoder.py --model trained/crossfusion/ensemble --img-input slides/ \
    --output-path predictions/

The model that is trained on these bags says that it needs own_encoder.py.
"""

from __future__ import annotations

import torch
from torch import nn

from tiacrossfusion.encoders.network import EncoderNetwork
from tiacrossfusion.encoders.registry import ENCODERS


class ColourGrid(nn.Module):
    """Mean and spread of red, green and blue in each quarter of a patch.

    A network with weights loads them where it is built; their hash is kept with the features.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From (B, 3, S, S) to (B, 24)."""
        quarters = images.unflatten(3, (2, -1)).unflatten(2, (2, -1)).transpose(3, 4).flatten(4)
        return torch.cat([quarters.mean(4), quarters.std(4)], dim=1).flatten(1)


@ENCODERS.register("colour-grid")
def colour_grid() -> EncoderNetwork:
    """Return the network, the width of its features, and the mean and spread that it expects."""
    return EncoderNetwork(ColourGrid(), width=24, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
