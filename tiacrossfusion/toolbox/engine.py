"""Survival prediction as a TIAToolbox engine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
from tiatoolbox import logger
from tiatoolbox.models.engine.engine_abc import EngineABC
from tiatoolbox.models.engine.io_config import ModelIOConfigABC
from tiatoolbox.wsicore.wsireader import WSIReader

from tiacrossfusion.encoders.encoder import Encoder
from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.errors import ArgumentTypeError, ArgumentValueError, UsageError
from tiacrossfusion.io.arguments import at_least, usable_device
from tiacrossfusion.models.source import LoadedModel
from tiacrossfusion.outputs.writers import WRITERS
from tiacrossfusion.runs.prediction import predict_slides
from tiacrossfusion.runs.prediction_task import PredictionOptions
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.runs.runner import Outcome
from tiacrossfusion.slides.options import ReadOptions, Scale
from tiacrossfusion.slides.spec import SCALES, SamplingSpec
from tiacrossfusion.toolbox.arguments import (
    check_fixed,
    check_sampling,
    folder_of,
    images_of,
    masks_of,
    path_of,
    scale_of,
)
from tiacrossfusion.toolbox.model import CrossFusionModel

_SETTINGS = ("batch_size", "num_workers", "device", "verbose")

#: Steps of TIAToolbox's engines that run a network on batches of patches.
_PATCH_STEPS = (
    "get_dataloader",
    "infer_patches",
    "infer_wsi",
    "post_process_patches",
    "post_process_wsi",
    "save_predictions",
    "save_predictions_as_zarr",
)


def sampling_ioconfig(spec: SamplingSpec) -> ModelIOConfigABC:
    """Write a model's sampling as TIAToolbox's IO configuration, finest scale last."""
    return ModelIOConfigABC(
        input_resolutions=[
            {"units": spec.units, "resolution": spec.resolution(scale)} for scale in SCALES
        ],
        patch_input_shape=(spec.patch_size, spec.patch_size),
        stride_shape=(spec.patch_size, spec.patch_size),
    )


class SurvivalPredictor(EngineABC):
    """Predict survival from whole-slide images.

    Args:
        model: name of a bundle ("crossfusion-demo"), a bundle folder, a hub id, or a
            `CrossFusionModel`.
        batch_size: patches in a batch of the encoder.
        num_workers: threads that read patches.
        weights: weights of the network (`.safetensors`) to take instead of the bundle's.
        encoder_weights: local weights file of the encoder, for machines without internet.
        device: torch device, such as "cpu" or "cuda".
        verbose: draw progress bars and print a line for each slide.

    Attributes:
        outcomes: what became of each image of the last run, with the reason where one failed.

    Raises:
        TiacfError: the model is unknown, damaged or cannot be fetched.
        UsageError: an argument is not of its type, or the device is not there.

    Examples:
        >>> predictor = SurvivalPredictor(model="crossfusion-demo", device="cpu")
        >>> predictor.run(images=["slide.svs"], save_dir="out", output_type="qupath")
        {PosixPath('slide.svs'): PosixPath('out/slide.geojson')}
    """

    def __init__(
        self,
        model: str | Path | CrossFusionModel = "crossfusion-demo",
        batch_size: int = 32,
        num_workers: int = 2,
        weights: str | Path | None = None,
        *,
        encoder_weights: str | Path | None = None,
        device: str = "cpu",
        verbose: bool = False,
    ) -> None:
        """Load the model."""
        _check_settings(batch_size=batch_size, num_workers=num_workers, device=device)
        self._encoder_weights = (
            None if encoder_weights is None else path_of("encoder_weights", encoder_weights)
        )
        super().__init__(
            model=str(model) if isinstance(model, Path) else model,
            batch_size=batch_size,
            num_workers=num_workers,
            weights=weights,
            device=device,
            verbose=verbose,
        )
        self.outcomes: list[Outcome] = []
        self._encoder: Encoder | None = None
        self._encoder_device = device

    @staticmethod
    def _initialize_model_ioconfig(
        model: str | CrossFusionModel, weights: str | Path | None
    ) -> tuple[CrossFusionModel, ModelIOConfigABC]:
        """Load the bundle in place of a model of TIAToolbox's own zoo."""
        if not isinstance(model, str | CrossFusionModel):
            raise ArgumentTypeError(
                f"model: must be a name, a folder, a hub id or a CrossFusionModel, not "
                f"{type(model).__name__}"
            )
        file = None if weights is None else path_of("weights", weights)
        loaded = CrossFusionModel(model) if isinstance(model, str) else model
        if file is not None:
            loaded = CrossFusionModel(loaded.bundle.with_weights(file))
        return loaded, sampling_ioconfig(loaded.bundle.config.sampling)

    def run(
        self,
        images: list[str | os.PathLike | WSIReader],
        *,
        masks: Iterable[str | os.PathLike | np.ndarray | None] | None = None,
        input_resolutions: list[dict] | None = None,
        patch_input_shape: tuple[int, int] | None = None,
        ioconfig: ModelIOConfigABC | None = None,
        patch_mode: bool = False,
        save_dir: str | os.PathLike | None = None,
        overwrite: bool = False,
        output_type: str = "dict",
        **kwargs: Any,
    ) -> dict[Path | str, Path | dict[str, Any]]:
        """Predict slides.

        An existing `save_dir` is resumed: finished slides are not made again and other files in it
        are left alone. A slide that fails is left out of the result and a warning is logged;
        `outcomes` holds the reason.

        Args:
            images: paths of slides, or TIAToolbox readers.
            masks: one for each image: a path (an image, or GeoJSON from QuPath), an array (H, W), or
                None for an image without.
            input_resolutions: None, or the model's own: a model is valid for its sampling only.
            patch_input_shape: None, or the model's own.
            ioconfig: None, or the model's own.
            patch_mode: must be False: survival is a property of a slide, not of a patch.
            save_dir: folder for results; needed for every output type but "dict".
            overwrite: make finished results again, replacing files that this program wrote for these
                slides and nothing else.
            output_type: "dict", "zarr", "annotationstore", "qupath" or another name in `WRITERS`. "dict"
                with a `save_dir` is saved as "zarr", as TIAToolbox's engines do.
            **kwargs: `auto_get_mask` (True; False predicts from all of an image without a mask, glass
                included), `wsireader_kwargs` ({"mpp": ...} or {"power": ...} for slides that do not
                state their scale), and `batch_size`, `num_workers`, `device`, `verbose` for this and
                later runs. The other run parameters of TIAToolbox's engines are accepted at their
                defaults.

        Returns:
            For each image (its path, or a name for a reader without one) its main output file, or for
            "dict" its prediction: "risk", "hazards" and "survival" (K,), "percentile", "risk_group",
            "median_survival", "member_risks" (M,) of an ensemble, and "attention" (N,) and "bounds"
            (N, 4) per scale.

        Raises:
            TiacfError: the encoder cannot be loaded, or the folder cannot be written.
            UsageError: an argument is wrong, or no image is given, before anything is computed. It is a
                `TypeError`, `ValueError` or `FileExistsError` too, as TIAToolbox's engines raise them.
        """
        mpp, power = scale_of(kwargs.pop("wsireader_kwargs", None))
        check_sampling(
            self.ioconfig,
            input_resolutions=input_resolutions,
            patch_input_shape=patch_input_shape,
            stride_shape=kwargs.pop("stride_shape", None),
            ioconfig=ioconfig,
        )
        if patch_mode:
            raise ArgumentValueError(
                "patch_mode=True: survival is predicted from whole slides; use patch_mode=False"
            )
        slides = images_of(images)
        their_masks = masks_of(masks, len(slides), auto_get_mask=kwargs.pop("auto_get_mask", True))
        known = {name.lower(): name for name in ("dict", *WRITERS.names())}
        if str(output_type).lower() not in known:
            names = ", ".join(map(repr, known.values()))
            raise ArgumentTypeError(f"output_type={output_type}: must be one of {names}")
        output_type = known[str(output_type).lower()]
        folder = None if save_dir is None else folder_of("save_dir", save_dir)
        if output_type == "dict" and folder is not None:
            output_type = "zarr"
        if output_type != "dict" and folder is None:
            raise ArgumentValueError(f"output_type={output_type}: give a save_dir to write to")
        self._settle(kwargs)
        self.outcomes = predict_slides(
            slides,
            LoadedModel(self._load_encoder(), self.model.bundle),
            None if folder is None else ResultsFolder(folder),
            PredictionOptions(
                ReadOptions(
                    Scale(mpp, power), batch_size=self.batch_size, num_workers=self.num_workers
                ),
                output_type=output_type,
                overwrite=overwrite,
            ),
            masks=their_masks,
            show_progress=self.verbose,
        )
        for outcome in self.outcomes:
            if outcome.status == "failed":
                logger.warning(outcome.message)
        return {
            outcome.source: result
            for outcome in self.outcomes
            if (result := outcome.output or outcome.value) is not None
        }

    def _settle(self, given: dict[str, Any]) -> None:
        """Take settings over into the engine, all of them or none."""
        check_fixed({name: value for name, value in given.items() if name not in _SETTINGS})
        settings = {name: given.get(name, getattr(self, name)) for name in _SETTINGS}
        _check_settings(settings["batch_size"], settings["num_workers"], settings["device"])
        self.model.to(settings["device"])
        for name, value in settings.items():
            setattr(self, name, value)

    def _load_encoder(self) -> Encoder:
        """Load the encoder once for a device."""
        if self._encoder is None or self._encoder_device != self.device:
            self._encoder = load_encoder_of(
                self.model.bundle.config.encoder, weights=self._encoder_weights, device=self.device
            )
            self._encoder_device = self.device
        return self._encoder


def _refuse(name: str) -> Callable[..., None]:
    """Make a method of the engine that cannot work."""

    def refused(self: SurvivalPredictor, *args: Any, **kwargs: Any) -> None:  # noqa: ARG001
        raise UsageError(
            f"SurvivalPredictor.{name}: survival is predicted from all patches of a slide at once, not "
            "from batches of patches; call run()"
        )

    refused.__name__ = name
    refused.__doc__ = "Raise UsageError: survival is predicted from all patches of a slide at once."
    return refused


for _step in _PATCH_STEPS:
    setattr(SurvivalPredictor, _step, _refuse(_step))


def _check_settings(batch_size: int, num_workers: int, device: str) -> None:
    """Refuse settings that cannot be."""
    at_least("batch_size", batch_size, 1)
    at_least("num_workers", num_workers, 0)
    usable_device(device)
