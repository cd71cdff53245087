"""One side of `benchmarks/extraction.py`, run as a whole process.

    python benchmarks/extraction_side.py toolbox SLIDE OUT --encoder NAME --masks FOLDER
    python benchmarks/extraction_side.py tiacf SLIDE OUT --encoder mean-colour

The encoder is "stain-texture", the package's own, or "mean-colour", which costs next to nothing. The
toolbox reads the same patches when it is given masks with one pixel for each cell (<scale>.png).
"""

from __future__ import annotations

import sys
from pathlib import Path

import click
import numpy as np
import torch
from torch import nn

from tiacrossfusion.slides.spec import SCALES, SamplingSpec

BATCH_SIZE = 32
NUM_WORKERS = 2


class MeanColour(nn.Module):
    """The mean of each channel."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """From `(B, 3, S, S)` to `(B, 3)`."""
        return images.mean(dim=(2, 3))


def module_of(encoder: str) -> nn.Module:
    """The network of an encoder; both take RGB in 0..1."""
    if encoder == "mean-colour":
        return MeanColour()
    from tiacrossfusion.encoders.stain_texture import StainTexture

    return StainTexture()


def with_tiacf(slide: Path, out: Path, encoder: str) -> None:
    """Extract a bag with this package."""
    from tiacrossfusion.encoders.encoder import Encoder
    from tiacrossfusion.encoders.network import EncoderNetwork
    from tiacrossfusion.inference.extraction import extract_bag
    from tiacrossfusion.slides.options import ReadOptions
    from tiacrossfusion.slides.slide import open_slide

    module = module_of(encoder)
    width = module(torch.zeros(1, 3, 256, 256)).shape[1]
    network = EncoderNetwork(module, width, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0), name=encoder)
    with open_slide(slide) as opened:
        bag = extract_bag(
            opened,
            SamplingSpec(),
            Encoder(network),
            ReadOptions(batch_size=BATCH_SIZE, num_workers=NUM_WORKERS),
        )
    bag.save(out)


def with_toolbox(slide: Path, out: Path, encoder: str, masks: Path) -> None:
    """Extract features at the three resolutions with TIAToolbox's engine."""
    from tiatoolbox.models.engine.deep_feature_extractor import DeepFeatureExtractor
    from tiatoolbox.models.models_abc import ModelABC

    class Wrapped(ModelABC):
        """An encoder in the toolbox's shape."""

        def __init__(self) -> None:
            super().__init__()
            self.encoder = module_of(encoder).eval()

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            """From `(B, 3, S, S)` to `(B, E)`."""
            return self.encoder(images)

        @staticmethod
        def infer_batch(
            model: nn.Module, batch_data: torch.Tensor, *, device: str
        ) -> list[np.ndarray]:
            """From uint8 `(B, S, S, 3)` to features, as the toolbox's own backbones do it."""
            images = batch_data.to(device).permute(0, 3, 1, 2).to(torch.float32) / 255
            with torch.inference_mode():
                return [model(images).cpu().numpy()]

    spec = SamplingSpec()
    engine = DeepFeatureExtractor(
        model=Wrapped(), batch_size=BATCH_SIZE, num_workers=NUM_WORKERS, device="cpu", verbose=False
    )
    for scale in SCALES:
        engine.run(
            images=[slide],
            masks=[masks / f"{scale}.png"],
            input_resolutions=[{"resolution": spec.resolution(scale), "units": spec.units}],
            patch_input_shape=(spec.patch_size, spec.patch_size),
            stride_shape=(spec.patch_size, spec.patch_size),
            patch_mode=False,
            save_dir=out / scale,
            output_type="zarr",
            overwrite=True,
        )


@click.command()
@click.argument("side", type=click.Choice(["tiacf", "toolbox"]))
@click.argument("slide", type=Path)
@click.argument("out", type=Path)
@click.option("--encoder", type=click.Choice(["stain-texture", "mean-colour"]), required=True)
@click.option("--masks", type=Path, help="Folder of the toolbox's masks.")
@click.option("--threads", type=int, help="Threads of torch; otherwise its own default.")
def main(
    side: str, slide: Path, out: Path, encoder: str, masks: Path | None, threads: int | None
) -> None:
    """Extract the features of SLIDE into OUT."""
    if threads is not None:
        torch.set_num_threads(threads)
    if side == "tiacf":
        with_tiacf(slide, out, encoder)
    elif masks is None:
        sys.exit("the toolbox's side needs --masks")
    else:
        with_toolbox(slide, out, encoder, masks)


if __name__ == "__main__":
    main()
