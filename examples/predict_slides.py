"""Predict survival from slides with the Python API, and print the results.

    python examples/predict_slides.py --output-path example-out [SLIDE ...]

Without SLIDE, two slides with known true hazard are simulated. The demonstration model is for trying out the
program, not for clinical use.
"""

from __future__ import annotations

from pathlib import Path

import click

from tiacrossfusion import SurvivalPredictor
from tiacrossfusion.simulation.parameters import TissueParameters, log_hazard
from tiacrossfusion.simulation.slide import render_slide


def simulate(folder: Path) -> list[Path]:
    """Draw a slide with little and one with much adverse tissue."""
    slides = []
    for seed, burden in enumerate((0.1, 0.9)):
        parameters = TissueParameters(architecture=burden, glands=burden, nuclei=burden)
        slide = folder / f"burden-{burden}.svs"
        render_slide(slide, parameters, size=(3072, 3072), mpp=0.5, seed=seed)
        print(f"{slide.name}: true log-hazard {log_hazard(parameters):+.2f}")
        slides.append(slide)
    return slides


@click.command()
@click.argument("slides", nargs=-1, type=click.Path(path_type=Path))
@click.option("--output-path", type=click.Path(path_type=Path), required=True)
def main(slides: tuple[Path, ...], output_path: Path) -> None:
    """Predict the slides in memory, then write files for QuPath."""
    output_path.mkdir(parents=True, exist_ok=True)
    images = list(slides) or simulate(output_path)
    predictor = SurvivalPredictor(model="nested-demo", batch_size=32, num_workers=2, device="cpu")

    # In memory: a dictionary of numbers and arrays for each slide.
    for image, prediction in predictor.run(images=images).items():
        strongest = prediction["attention"]["20x"].argmax()
        print(
            f"{image.name}: risk {prediction['risk']:.2f} ({prediction['risk_group']}), "
            f"S at the bin edges {prediction['survival'].round(2).tolist()}, "
            f"most attended 20x patch at {prediction['bounds']['20x'][strongest].tolist()}"
        )

    # On disk: open the slide in QuPath and drag its GeoJSON onto it.
    outputs = predictor.run(images=images, save_dir=output_path / "qupath", output_type="qupath")
    for image, path in outputs.items():
        print(f"{image.name}: {path}")
    for outcome in predictor.outcomes:
        if outcome.status == "failed":
            print(f"failed: {outcome.message}")


if __name__ == "__main__":
    main()
