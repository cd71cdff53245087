r"""Your own encoder in one file: the colours of a patch on a grid of 2 x 2.

tiacf extract --plugin own_encoder.py --encoder colour-grid --img-input slides/ --output-path bags/
tiacf train --bags bags/ --table TABLE --time-unit months --output-path trained/
tiacf predict --plugin own_encoder.py --model trained/crossfusion/ensemble --img-input slides/ \
    --output-path predictions/

A model trained on these bags records that it needs own_encoder.py.
"""

from __future__ import annotations

import torch
from torch import nn

from tiacrossfusion import ENCODERS
from tiacrossfusion.encoders.network import EncoderNetwork


class ColourGrid(nn.Module):
    """Mean and standard deviation of red, green and blue in each quarter of a patch.

    A network with weights loads them when it is built; their hash is stored with the features.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the features (B, 24) of images (B, 3, S, S)."""
        quarters = images.unflatten(3, (2, -1)).unflatten(2, (2, -1)).transpose(3, 4).flatten(4)
        return torch.cat([quarters.mean(4), quarters.std(4)], dim=1).flatten(1)


@ENCODERS.register("colour-grid")
def colour_grid() -> EncoderNetwork:
    """Return the network, the width of its features, and the mean and SD of its input."""
    return EncoderNetwork(ColourGrid(), width=24, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
