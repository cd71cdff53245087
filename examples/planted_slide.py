"""Compare the attribution of the demonstration model with the truth on a simulated slide.

    python examples/planted_slide.py planted.png

Simulates a slide with adverse nuclei in a part of its tumour, predicts it, and draws the planted regions and
the attribution of the risk to the 20x patches side by side. Their agreement is printed as an AUC.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import click
import matplotlib.pyplot as plt
import numpy as np

from tiacrossfusion import load_bundle
from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.evaluation.faithfulness import auc
from tiacrossfusion.evaluation.true_regions import planted_tokens
from tiacrossfusion.inference.slide import predict_slide
from tiacrossfusion.simulation.parameters import TissueParameters
from tiacrossfusion.simulation.slide import render_slide


@click.command()
@click.argument("picture", type=click.Path(path_type=Path))
@click.option("--seed", default=1, show_default=True, help="Of the slide.")
def main(picture: Path, seed: int) -> None:
    """Draw PICTURE."""
    bundle = load_bundle("nested-demo")
    encoder = load_encoder_of(bundle.config.encoder)
    with tempfile.TemporaryDirectory() as folder:
        slide = Path(folder) / "planted.svs"
        burdens = TissueParameters(architecture=0.5, glands=0.5, nuclei=0.5)
        truth = render_slide(slide, burdens, size=(6144, 6144), mpp=0.5, seed=seed)
        result = predict_slide(slide, bundle, encoder)
    values = result.prediction.attribution.values["20x"]
    planted = planted_tokens(result.bag, truth)["20x"]
    agreement = auc(values, planted)

    bag = result.bag.scales["20x"]
    columns, rows = bag.grid.T
    attribution = np.full((rows.max() + 1, columns.max() + 1), np.nan)
    attribution[rows, columns] = values
    strongest = np.quantile(np.abs(values), 0.99)
    extent = (0, truth.tissue.shape[1], truth.tissue.shape[0], 0)
    cell = 256 * 0.5 / truth.mpp_of_maps  # width of a 20x patch on the maps of the truth
    figure, axes = plt.subplots(1, 3, figsize=(11, 4), layout="constrained")
    axes[0].imshow(result.overview, extent=extent)
    axes[0].set_title("simulated slide")
    axes[1].imshow(np.where(truth.tissue, 1 + truth.nuclei, 0), cmap="Greys", extent=extent)
    axes[1].set_title("adverse nuclei, as planted")
    shown = axes[2].imshow(
        attribution,
        cmap="RdBu_r",
        vmin=-strongest,
        vmax=strongest,
        extent=(0, cell * attribution.shape[1], cell * attribution.shape[0], 0),
    )
    axes[2].set_title(f"attribution of the risk, 20x (AUC {agreement:.2f})")
    figure.colorbar(shown, ax=axes[2], label="lowers  -  raises the risk", shrink=0.8)
    for ax in axes:
        ax.set(xlim=extent[:2], ylim=extent[2:], xticks=[], yticks=[])
    figure.savefig(picture, dpi=100)
    click.echo(f"AUC of the attribution for the planted 20x patches: {agreement:.2f}; {picture}")


if __name__ == "__main__":
    main()
