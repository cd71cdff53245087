"""Survival prediction as a TIAToolbox engine."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from tiatoolbox import logger
from tiatoolbox.models.engine.engine_abc import EngineABC
from tiatoolbox.models.engine.io_config import ModelIOConfigABC
from tiatoolbox.wsicore.wsireader import WSIReader
from torch import nn

from tiacrossfusion.bags.files import find_bags
from tiacrossfusion.cohorts.patients import read_patients
from tiacrossfusion.encoders.encoder import Encoder
from tiacrossfusion.encoders.loading import load_encoder
from tiacrossfusion.encoders.stored import load_encoder_of
from tiacrossfusion.errors import ArgumentTypeError, ArgumentValueError
from tiacrossfusion.inference.budget import Budget
from tiacrossfusion.io.arguments import at_least, usable_device
from tiacrossfusion.io.plugins import load_plugins
from tiacrossfusion.models.source import LoadedModel, ModelSource
from tiacrossfusion.runs.cluster import connect
from tiacrossfusion.runs.prediction import predict
from tiacrossfusion.runs.prediction_task import PredictionOptions
from tiacrossfusion.runs.results_folder import ResultsFolder
from tiacrossfusion.runs.runner import Outcome
from tiacrossfusion.slides.options import ReadOptions
from tiacrossfusion.toolbox.arguments import (
    check_fixed,
    check_hotspots,
    folder_of,
    images_of,
    masks_of,
    output_type_of,
    path_of,
    scale_of,
)
from tiacrossfusion.toolbox.ioconfig import (
    check_sampling,
    given_ioconfig,
    sampling_ioconfig,
    sampling_of,
)
from tiacrossfusion.toolbox.model import SurvivalModel
from tiacrossfusion.toolbox.own_network import load_own_weights, own_bundle
from tiacrossfusion.toolbox.patch_steps import without_patch_steps

if TYPE_CHECKING:
    from tiacrossfusion.explain.hotspots import HotspotsBy
    from tiacrossfusion.runs.patients import PatientOutcome

_SETTINGS = ("batch_size", "num_workers", "device", "verbose")


@without_patch_steps
class SurvivalPredictor(EngineABC):
    """Predict survival from whole-slide images.

    Args:
        model: name of a bundle ("nested-demo"), a bundle folder, a hub id, a `SurvivalModel`, or
            a network of your own: an `nn.Module` that takes x5, x10 and x20 (B, N, E) by name and returns
            logits (B, K). The last needs an `encoder`, and an `ioconfig` in `run`.
        batch_size: patches in a batch of the encoder.
        num_workers: threads that read patches.
        weights: weights of the network to take instead of the bundle's: `.safetensors`, or a state dict
            that `torch.save` wrote.
        encoder: encoder of a network of your own, see `load_encoder`; a bundle names its own.
        encoder_weights: local weights file of the encoder, for machines without internet.
        precision: of the encoder's arithmetic: "float32", "float16", "bfloat16", or "auto", which is
            float16 on a GPU and float32 elsewhere.
        device: torch device, such as "cpu" or "cuda"; with a `cluster` that of its workers.
        cluster: a Dask cluster to work on: its scheduler's address or scheduler file.
        plugins: modules or Python files that register your own encoders, networks and output formats.
        verbose: draw progress bars and print a line for each slide.

    Attributes:
        outcomes: outcome of each image of the last run, with the reason where one failed.
        patients: outcome of each patient of the last run.

    Raises:
        TiacfError: the model is unknown, damaged or cannot be fetched.
        UsageError: an argument has the wrong type, or the device is not available.

    Examples:
        >>> predictor = SurvivalPredictor(model="nested-demo", device="cpu")
        >>> predictor.run(images=["slide.svs"], save_dir="out", output_type="qupath")
        {PosixPath('slide.svs'): PosixPath('out/slide.geojson')}
    """

    def __init__(
        self,
        model: str | Path | nn.Module = "nested-demo",
        batch_size: int = 32,
        num_workers: int = 2,
        weights: str | Path | None = None,
        *,
        encoder: str | None = None,
        encoder_weights: str | Path | None = None,
        precision: str = "auto",
        device: str = "cpu",
        cluster: str | None = None,
        plugins: Sequence[str] = (),
        verbose: bool = False,
    ) -> None:
        """Load the model."""
        _check_settings(batch_size, num_workers, device if cluster is None else "cpu")
        if encoder is not None and (
            not isinstance(model, nn.Module) or isinstance(model, SurvivalModel)
        ):
            raise ArgumentValueError(f"encoder={encoder}: the model has its own; leave it out")
        if cluster is not None and isinstance(model, nn.Module):
            raise ArgumentTypeError(
                "cluster: its workers load the model themselves; give its name or folder"
            )
        self._plugins = load_plugins(plugins)
        self._encoder_name, self._precision, self._cluster = encoder, precision, cluster
        self._encoder_weights = (
            None if encoder_weights is None else path_of("encoder_weights", encoder_weights)
        )
        self._given = str(model), None if weights is None else str(path_of("weights", weights))
        super().__init__(
            model=str(model) if isinstance(model, Path) else model,
            batch_size=batch_size,
            num_workers=num_workers,
            weights=weights,
            device=device if cluster is None else "cpu",
            verbose=verbose,
        )
        self.device = device
        self.outcomes: list[Outcome] = []
        self.patients: list[PatientOutcome] = []
        self._encoder: Encoder | None = None
        self._encoder_device = device

    @staticmethod
    def _initialize_model_ioconfig(
        model: str | nn.Module, weights: str | Path | None
    ) -> tuple[nn.Module, ModelIOConfigABC | None]:
        """Load the bundle in place of a model of TIAToolbox's own collection."""
        if not isinstance(model, str | nn.Module):
            raise ArgumentTypeError(
                "model: must be a name, a folder, a hub id, a SurvivalModel or another nn.Module, not "
                f"{type(model).__name__}"
            )
        file = None if weights is None else path_of("weights", weights)
        if isinstance(model, nn.Module) and not isinstance(model, SurvivalModel):
            if file is not None:
                load_own_weights(model, file)
            return model, None
        loaded = SurvivalModel(model) if isinstance(model, str) else model
        if file is not None:
            loaded = SurvivalModel(loaded.bundle.with_weights(file))
        return loaded, sampling_ioconfig(loaded.bundle.config.sampling)

    def run(
        self,
        images: list[str | os.PathLike | WSIReader] | None = None,
        *,
        masks: Iterable[str | os.PathLike | np.ndarray | None] | None = None,
        input_resolutions: list[dict] | None = None,
        patch_input_shape: tuple[int, int] | None = None,
        ioconfig: ModelIOConfigABC | None = None,
        patch_mode: bool = False,
        save_dir: str | os.PathLike | None = None,
        overwrite: bool = False,
        output_type: str = "dict",
        bags: str | os.PathLike | Sequence[str | os.PathLike] | None = None,
        patients: str | os.PathLike | pd.DataFrame | None = None,
        slide_column: str = "slide",
        patient_column: str = "patient",
        mpp: float | None = None,
        power: float | None = None,
        series: int | None = None,
        allow_enlarged: bool = False,
        mask_classes: Sequence[str] = (),
        attribution: bool = True,
        hotspots: HotspotsBy = "attribution",
        orders: int = 1,
        budget: float | Budget = 1.0,
        gzip: bool = False,
        **kwargs: Any,
    ) -> dict[Path | str, Path | dict[str, Any]]:
        """Predict slides, or their feature bags.

        An existing `save_dir` is resumed: finished slides are not made again and other files in it
        are left alone. A slide that fails is left out of the result and a warning is logged;
        `outcomes` holds the reason.

        Args:
            images: paths of slides, or TIAToolbox readers.
            masks: one for each image: a path (an image, or GeoJSON from QuPath), an array (H, W), a
                `VirtualWSIReader`, or None for an image without.
            input_resolutions: None, or the model's own: a model is valid for its sampling only.
            patch_input_shape: None, or the model's own.
            ioconfig: None, or the model's own. A network without a bundle needs it, or `input_resolutions`
                and `patch_input_shape`, in its first run.
            patch_mode: must be False: survival is a property of a slide, not of a patch.
            save_dir: folder for results; needed for every output type but "dict".
            overwrite: make finished results again; files of others are never replaced.
            output_type: "dict", "zarr", "annotationstore", "qupath" or another name in `WRITERS`. "dict"
                with a `save_dir` is saved as "zarr", as TIAToolbox's engines do.
            bags: instead of images: a folder of feature bags, one bag, or a list of bags.
            patients: CSV file or table with the patient of each slide, and the records that a model reads.
                `patients` of the predictor then holds one prediction a patient, the mean over the slides;
                with a `save_dir` patients.csv too.
            slide_column: of that file, names the slides.
            patient_column: of that file, names the patients.
            mpp: microns per level-0 pixel of the slides, over what the files say.
            power: objective power of the slides, over what the files say.
            series: number of the picture of a TIFF to read; None takes the largest in colour.
            allow_enlarged: read slides whose 20x patches are enlarged more than twice, too.
            mask_classes: take the areas of GeoJSON masks that have these classes only.
            attribution: compute what raises and what lowers the risk; without it the model takes a tenth
                of the time.
            hotspots: find regions by "attribution" (raise or lower the risk), or by "attention".
            orders: 8 averages over eight orders of the patches, for networks that read their order.
            budget: share of the families (5x patches with what is inside) that is read, or a `Budget`.
            gzip: compress GeoJSON.
            **kwargs: `auto_get_mask` (True; False predicts from all of an image without a mask, glass
                included), `wsireader_kwargs` ({"mpp": ...} or {"power": ...}, as the arguments), and
                `batch_size`, `num_workers`, `device`, `verbose` for this and later runs. The other run
                parameters of TIAToolbox's engines are accepted at their defaults.

        Returns:
            For each image (its path, or a name for a reader without one) its main output file, or for
            "dict" its prediction, see `prediction_dict`.

        Raises:
            TiacfError: the encoder cannot be loaded, or the folder cannot be written.
            UsageError: an argument is wrong, or no image is given, before anything is computed. It is a
                `TypeError`, `ValueError` or `FileExistsError` too, as TIAToolbox's engines raise them.
        """
        scale = scale_of(kwargs.pop("wsireader_kwargs", None), mpp, power)
        stride_shape = kwargs.pop("stride_shape", None)
        auto_get_mask = kwargs.pop("auto_get_mask", True)
        if patch_mode:
            raise ArgumentValueError(
                "patch_mode=True: survival is predicted from whole slides; use patch_mode=False"
            )
        if bags is None:
            sources: list[Any] = list(images_of(images))
            their_masks = masks_of(masks, len(sources), auto_get_mask=auto_get_mask)
        else:
            _refuse_with_bags(
                images=images,
                masks=masks,
                auto_get_mask=None if auto_get_mask else False,
                mpp=scale.mpp,
                power=scale.power,
                series=series,
                allow_enlarged=allow_enlarged or None,
                mask_classes=tuple(mask_classes) or None,
            )
            sources, their_masks = _bags_of(bags), None
        folder = None if save_dir is None else folder_of("save_dir", save_dir)
        output_type = output_type_of(output_type, folder)
        if gzip and output_type != "qupath":
            raise ArgumentValueError(
                f"gzip: is for GeoJSON, not for output_type={output_type}; leave it out"
            )
        check_hotspots(hotspots)
        table = None
        if patients is not None:
            table = read_patients(
                patients if isinstance(patients, pd.DataFrame) else path_of("patients", patients),
                slide_column=slide_column,
                patient_column=patient_column,
            )
            for note in table.notes(sources):
                logger.warning(note)
        own = self._sampling(
            ioconfig,
            input_resolutions=input_resolutions,
            patch_input_shape=patch_input_shape,
            stride_shape=stride_shape,
        )
        self._settle(kwargs)
        self.ioconfig = own
        model = self._source(with_encoder=bags is None, orders=orders)
        how_much = Budget.of(budget).checked(lambda: model.load().need_bundle())
        with connect(self._cluster, model) as executor:
            done = predict(
                sources,
                model,
                None if folder is None else ResultsFolder(folder),
                PredictionOptions(
                    ReadOptions(
                        scale,
                        mask_classes=tuple(mask_classes),
                        series=series,
                        allow_enlarged=allow_enlarged,
                        batch_size=self.batch_size,
                        num_workers=self.num_workers,
                    ),
                    output_type=output_type,
                    attribution=attribution,
                    hotspots=hotspots,
                    gzip=gzip,
                    overwrite=overwrite,
                    budget=how_much,
                ),
                are_bags=bags is not None,
                masks=their_masks,
                patients=table,
                executor=executor,
                show_progress=self.verbose,
            )
        self.outcomes, self.patients = done.outcomes, done.patients
        for outcome in self.outcomes:
            if outcome.status == "failed":
                logger.warning(outcome.message)
        return {
            outcome.source: result
            for outcome in self.outcomes
            if (result := outcome.output or outcome.value) is not None
        }

    def _sampling(self, ioconfig: ModelIOConfigABC | None, **given: Any) -> ModelIOConfigABC:
        """Return the sampling of this run: the model's own, or that given for a network without bundle."""
        if isinstance(self.model, SurvivalModel):
            check_sampling(self.ioconfig, **given, ioconfig=ioconfig)
            return self.ioconfig
        return given_ioconfig(ioconfig or self.ioconfig, **given)

    def _settle(self, given: dict[str, Any]) -> None:
        """Take settings over into the engine, all of them or none."""
        check_fixed({name: value for name, value in given.items() if name not in _SETTINGS})
        settings = {name: given.get(name, getattr(self, name)) for name in _SETTINGS}
        here = settings["device"] if self._cluster is None else "cpu"
        _check_settings(settings["batch_size"], settings["num_workers"], here)
        self.model.to(here)
        for name, value in settings.items():
            setattr(self, name, value)

    def _source(self, *, with_encoder: bool, orders: int) -> LoadedModel | ModelSource:
        """Return the model and its encoder, or for a cluster the names that its workers load them by."""
        if self._cluster is not None:
            model, weights = self._given
            return ModelSource(
                model=model,
                model_weights=weights,
                weights=None if self._encoder_weights is None else str(self._encoder_weights),
                device=self.device,
                precision=self._precision,
                with_encoder=with_encoder,
                orders=orders,
                plugins=self._plugins,
            )
        if isinstance(self.model, SurvivalModel):
            bundle = self.model.bundle.with_orders(orders)
            return LoadedModel(self._load_encoder() if with_encoder else None, bundle)
        encoder = self._load_encoder()  # a network without bundle does not name it
        own = own_bundle(self.model, sampling_of(self.ioconfig), encoder.spec)
        return LoadedModel(encoder, own.with_orders(orders))

    def _load_encoder(self) -> Encoder:
        """Load the encoder once for a device."""
        if self._encoder is None or self._encoder_device != self.device:
            how: Any = {
                "weights": self._encoder_weights,
                "device": self.device,
                "precision": self._precision,
            }
            if isinstance(self.model, SurvivalModel):
                self._encoder = load_encoder_of(self.model.bundle.config.encoder, **how)
            elif self._encoder_name is not None:
                self._encoder = load_encoder(self._encoder_name, **how)
            else:
                raise ArgumentValueError(
                    "encoder: is missing; a network without a model bundle needs the name of its encoder, "
                    "see `tiacf encoders`"
                )
            self._encoder_device = self.device
        return self._encoder


def _check_settings(batch_size: int, num_workers: int, device: str) -> None:
    at_least("batch_size", batch_size, 1)
    at_least("num_workers", num_workers, 0)
    usable_device(device)


def _bags_of(given: Any) -> list[Path]:
    """Return the bags that a folder, a bag or a list of bags stands for."""
    if isinstance(given, list | tuple):
        return [path for each in given for path in find_bags(path_of("bags", each))]
    return find_bags(path_of("bags", given))


def _refuse_with_bags(**given: Any) -> None:
    """Refuse arguments that only slides need."""
    for name, value in given.items():
        if value is not None:
            raise ArgumentValueError(f"{name}: is for slides, bags are finished; leave it out")
