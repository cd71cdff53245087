"""Compare methods of attributing the risk to tokens with deleting each token alone.

    python benchmarks/attribution.py --work-dir work > benchmarks/attribution.md

CrossFusion of width 32 is trained for a minute on a planted cohort, once with few features and once with
many, as real encoders have; with many, the bias of the projection is negligible in the normalised tokens.
For some test slides the change of the risk is computed for each token that is removed from the bag alone; a
method is judged by the correlation of its values with these changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import click
import numpy as np
import planted_cohort
import torch
from planted_cohort import STRENGTH, quiet, settings, simulated
from torch import Tensor, nn

from tiacrossfusion.explain.attribution import attribute_tokens
from tiacrossfusion.models.bundle import load_bundle
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.training.run import TrainingRun

PATIENTS, SEED, SIDE = 160, 1, 4
WIDTHS = (64, 512)
POINTS = (1, 2, 4, 32)
RECIPE = {"loss": "nll", "learning_rate": 1e-3, "dropout": 0.1}
SHOWN = ("5x", "20x")  # nothing is planted at 10x


def risk(network: nn.Module, tokens: Mapping[str, Tensor]) -> float:
    """Risk of a bag."""
    with torch.inference_mode():
        return float(network(*tokens.values()).risk)


def each_alone(network: nn.Module, tokens: Mapping[str, Tensor], scale: str) -> np.ndarray:
    """Fall of the risk when each token of a scale is taken out alone."""
    whole, bag = risk(network, tokens), tokens[scale]
    without = [
        risk(network, {**tokens, scale: torch.cat([bag[:, :n], bag[:, n + 1 :]], dim=1)})
        for n in range(bag.shape[1])
    ]
    return whole - np.array(without)


def integrated(
    network: nn.Module, tokens: Mapping[str, Tensor], points: int
) -> dict[str, np.ndarray]:
    """Integrated gradients of the risk at the features, from the training patients' mean feature."""
    nodes, weights = np.polynomial.legendre.leggauss(points)
    mean = dict(zip(SCALES, network.mean, strict=True))
    total = {scale: np.zeros(bag.shape[1]) for scale, bag in tokens.items()}
    for share, weight in zip((nodes + 1) / 2, weights / 2, strict=True):
        place = [
            torch.lerp(mean[scale].expand_as(bag), bag, float(share)).requires_grad_()
            for scale, bag in tokens.items()
        ]
        gradients = torch.autograd.grad(network(*place).risk.sum(), place)
        for (scale, bag), gradient in zip(tokens.items(), gradients, strict=True):
            total[scale] += weight * ((bag - mean[scale]) * gradient).sum(dim=2)[0].numpy()
    return total


def compare(work: Path, width: int, slides: int) -> dict[str, dict[str, float]]:
    """Correlation of each way with single deletions, by scale, mean over slides."""
    planted_cohort.WIDTH = width
    cohort, table = simulated("product", PATIENTS, SEED, SIDE, STRENGTH)
    chosen = settings("crossfusion", RECIPE, {"protocol": "holdout"}, epochs=15, patience=15)
    folder = work / "attribution" / str(width)
    run = TrainingRun(folder, cohort, chosen)
    run.fit("crossfusion")
    network = load_bundle(folder / "crossfusion" / "fold-0" / "bundle").network.double()
    found: dict[str, dict[str, list[float]]] = {}
    names = table.slide[table.patient.isin(run.plan.folds[0].test)][:slides]
    for name in names:
        bag = cohort.sources[name]
        tokens = {
            scale: torch.from_numpy(bag.scales[scale].features).double()[None] for scale in SCALES
        }
        ways = {
            f"integrated gradients, {n} point(s)": integrated(network, tokens, n) for n in POINTS
        }
        ways["gradient at the embedded tokens"] = attribute_tokens(
            network, SlideTokens(tokens)
        ).values
        with torch.inference_mode():
            seen = network(*tokens.values(), attention=True).attention
        ways["attention"] = {"5x": seen.x5[0].numpy(), "20x": seen.x20[0].numpy()}
        for scale in SHOWN:
            alone = each_alone(network, tokens, scale)
            for way, values in ways.items():
                together = float(np.corrcoef(values[scale], alone)[0, 1])
                found.setdefault(way, {}).setdefault(scale, []).append(together)
    return {
        way: {scale: float(np.mean(values)) for scale, values in scales.items()}
        for way, scales in found.items()
    }


@click.command()
@click.option("--work-dir", type=Path, required=True, help="Where runs are kept between calls.")
@click.option("--slides", default=8, show_default=True)
def main(work_dir: Path, slides: int) -> None:
    """Compare and print the page."""
    quiet()
    found = {width: compare(work_dir, width, slides) for width in WIDTHS}
    columns = [(width, scale) for width in WIDTHS for scale in SHOWN]
    click.echo(
        "# Ways to attribute the risk to tokens\n\n"
        f"Made by `attribution.py`: CrossFusion with 32 units on {PATIENTS} planted patients; correlation "
        "of the tokens' values with the change of the risk when each is deleted alone, mean over "
        f"{slides} test slides. A point costs a forward and a backward pass, as the gradient at the "
        "embedded tokens does.\n"
    )
    click.echo("| way | " + " | ".join(f"{w} features, {scale}" for w, scale in columns) + " |")
    click.echo("|---" * (len(columns) + 1) + "|")
    for way in found[WIDTHS[0]]:
        cells = " | ".join(f"{found[width][way][scale]:.2f}" for width, scale in columns)
        click.echo(f"| {way} | {cells} |")


if __name__ == "__main__":
    main()
