"""One model on one fold: fitted, stopped by the validation patients, then predicting all."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import lightning
import pandas as pd
import torch
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger

from tiacrossfusion.errors import TiacfError, lacks_memory, one_line
from tiacrossfusion.io.atomic import write_text
from tiacrossfusion.models.config import Architecture
from tiacrossfusion.models.network import describe_network, network_of
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import input_names, needs_nesting, required_inputs
from tiacrossfusion.networks.coxnet import CoxNet
from tiacrossfusion.networks.recipe import Recipe
from tiacrossfusion.networks.registry import NETWORKS
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.survival import TimeBins, breslow_increments, quantile_bins
from tiacrossfusion.training.augmenting import make_augmentation
from tiacrossfusion.training.bags import NESTED, CohortBags
from tiacrossfusion.training.checkpoints import WholeCheckpoints, read_checkpoint
from tiacrossfusion.training.closed_form import fit_coxnet
from tiacrossfusion.training.config import TrainingConfig
from tiacrossfusion.training.devices import Devices, quiet
from tiacrossfusion.training.loggers import make_loggers
from tiacrossfusion.training.module import SurvivalTraining
from tiacrossfusion.training.patients import Patient, predict_log_hazards, times_and_events
from tiacrossfusion.training.statistics import fit_statistics
from tiacrossfusion.training.variants import plain_of

LAST, BEST, METRICS = "last.ckpt", "best.ckpt", "metrics.csv"
_LOGS = "logs"


@dataclass(frozen=True)
class FittedFold:
    """The result of training on a fold: the network of the best epoch, in eval mode on the CPU."""

    architecture: Architecture
    network: SurvivalNetwork
    bins: TimeBins


def build_on_meta(model: str, config: TrainingConfig) -> SurvivalNetwork:
    """Build a network without weights, to find out before training whether and with what it can be.

    Raises:
        UsageError: it cannot be built of these sizes.
    """
    with torch.device("meta"):  # takes no memory and draws no random numbers
        return _build(_architecture(model, config, encoder_width=1), config)  # any width would do


def needed_of_bags(model: str, config: TrainingConfig) -> list[str]:
    """Return what a network needs of every bag, such as "x20" and "grid20"; `NESTED` comes last."""
    network = build_on_meta(model, config)
    needed = [name for name in required_inputs(network) if name != "covariates"]
    return needed + ([NESTED] if needs_nesting(network) else [])


def fit_fold(
    model: str,
    config: TrainingConfig,
    bags: CohortBags,
    training: Sequence[Patient],
    validation: Sequence[Patient],
    folder: Path,
    *,
    seed: int,
    devices: Devices | None = None,
    loggers: Sequence[str] = (),
    show_progress: bool = True,
    say: Callable[[str], None] = lambda _: None,
) -> FittedFold:
    """Fit a network to the training patients and keep the epoch with the best validation score.

    Time bins, feature moments and differences between sites come from the training patients alone. A run
    that was killed is resumed from its checkpoints in `folder` after its last complete epoch, with the same
    result.

    Raises:
        TiacfError: too few events for the time bins, the loss is not finite, or the folder cannot be
            written.
    """
    devices = devices or Devices()
    times, events = times_and_events(training)
    bins = quantile_bins(times, events, config.network.num_bins, config.time_unit)
    recipe = config.recipe_of(model, len(training), devices.count())
    architecture = _architecture(model, config, bags.encoder.width)
    lightning.seed_everything(seed, verbose=False)
    network = _build(architecture, config)
    if architecture.standardise and isinstance(network, TrainedNetwork):
        slides = [slide for patient in training for slide in patient.slides]
        network.set_moments(*bags.moments(slides))
    if architecture.covariates and isinstance(network, TrainedNetwork):
        network.set_covariate_moments(*bags.covariate_moments(p.slides[0] for p in training))
    if isinstance(network, TrainedNetwork) and network.statistics is not None:
        found = fit_statistics(network, bags, training, seed)
        say(f"statistics kept: {'; '.join(found) or 'none'}")
    if isinstance(network, TrainedNetwork) and isinstance(network.network, CoxNet):
        network.eval()
        say(fit_coxnet(network, bags, training, validation, folder / METRICS, seed))
        _set_baseline(network, bags, training, bins)
        return FittedFold(architecture, network, bins)
    augmentation = make_augmentation(
        network, recipe, bags, training, config.augmenting.nuisance, seed, say
    )
    module = SurvivalTraining(network, bags, training, validation, bins, recipe, seed, augmentation)
    last = folder / LAST
    with quiet():
        trainer = _trainer(recipe, folder, devices, loggers, show_progress and sys.stderr.isatty())
        try:
            if not _has_stopped(last):
                trainer.fit(module, ckpt_path=last if last.is_file() else None)
        except RuntimeError as error:
            if lacks_memory(error):
                raise TiacfError(
                    f"{model}: {one_line(error)}; take a smaller embed_dim, or a device with more memory"
                ) from error
            raise
        except OSError as error:  # checkpoints and logs; bags have been read
            raise TiacfError(
                f"{folder}: cannot be written ({error.strerror or error}); make room on its disk or "
                "check its rights, the same command then goes on"
            ) from error
        except SystemExit as end:  # what Lightning makes of Ctrl-C
            if trainer.interrupted:
                raise KeyboardInterrupt from end
            raise
    if trainer.is_global_zero:
        _join_logs(folder)
    best = read_checkpoint(folder / BEST)
    module.load_state_dict(best["state_dict"])
    module.to(trainer.strategy.root_device).eval()
    if isinstance(network, TrainedNetwork) and architecture.proportional_hazards:
        _set_baseline(network, bags, training, bins)
    return FittedFold(architecture, network.eval(), bins)


def _set_baseline(
    network: TrainedNetwork, bags: CohortBags, training: Sequence[Patient], bins: TimeBins
) -> None:
    """Set the baseline hazard of a network with proportional hazards."""
    times, events = times_and_events(training)
    increments = breslow_increments(
        predict_log_hazards(network, bags, training), times, events, bins
    )
    network.set_baseline(torch.from_numpy(increments))


def _join_logs(folder: Path) -> None:
    """Write `metrics.csv`, a row an epoch, from the logs of all attempts; of an epoch the last one counts."""
    logs = [log for log in (folder / _LOGS).glob("version_*/metrics.csv") if log.stat().st_size]
    attempts = sorted(logs, key=lambda log: log.stat().st_mtime)
    if (folder / METRICS).is_file():  # killed while the logs were removed
        attempts.insert(0, folder / METRICS)
    if not attempts:
        raise TiacfError(
            f"{folder / METRICS}: is gone with the figures of the epochs; remove {folder} to have the "
            "fold trained again"
        )
    rows = pd.concat([pd.read_csv(log) for log in attempts])
    write_text(folder / METRICS, rows.groupby("epoch").last().to_csv(lineterminator="\n"))
    shutil.rmtree(folder / _LOGS, ignore_errors=True)


def _has_stopped(last: Path) -> bool:
    """Return whether early stopping had already triggered; resuming would train one epoch too many."""
    if not last.is_file():
        return False
    callbacks = read_checkpoint(last)["callbacks"]
    return any(
        state["wait_count"] >= state["patience"]
        for name, state in callbacks.items()
        if name.startswith("EarlyStopping")
    )


def wait_for_others() -> None:
    """Meet the processes of the other devices, if there are any."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.barrier()


def _architecture(model: str, config: TrainingConfig, encoder_width: int) -> Architecture:
    """Describe a network with those of the settings that it takes."""
    recipe, name = config.recipe_of(model), plain_of(model)
    covariates = config.columns.covariates if "covariates" in input_names(NETWORKS[name]) else ()
    return describe_network(
        name,
        encoder_width=encoder_width,
        num_bins=config.network.num_bins,
        sizes={
            **config.network.model_dump(exclude={"sizes"}),
            "embed_dim": recipe.embed_dim,
            **config.network.sizes,
            "num_covariates": len(covariates),
        },
        covariates=covariates,
        standardise=config.network.standardise,
        proportional_hazards=recipe.loss == "cox",
        statistics=recipe.statistics,
    )


def _build(architecture: Architecture, config: TrainingConfig) -> SurvivalNetwork:
    return network_of(
        architecture,
        dropout=config.recipe_of(architecture.name).dropout,
        attention_dropout=config.network.attention_dropout,
    )


def _trainer(
    recipe: Recipe,
    folder: Path,
    devices: Devices,
    loggers: Sequence[str],
    show_progress: bool,
) -> lightning.Trainer:
    figure, mode = ("val_loss", "min") if recipe.monitor == "loss" else ("val_c", "max")
    callbacks: list[lightning.Callback] = [
        ModelCheckpoint(
            folder,
            filename=BEST.removesuffix(".ckpt"),
            monitor=figure,
            mode=mode,
            save_last=True,
            enable_version_counter=False,
        ),
        EarlyStopping(figure, mode=mode, patience=recipe.patience),
    ]
    if show_progress:
        callbacks.append(TQDMProgressBar(leave=False))
    return lightning.Trainer(
        accelerator=devices.accelerator,
        devices=devices.devices,
        strategy=devices.strategy,
        precision=_precision(devices),
        max_epochs=recipe.epochs,
        num_sanity_val_steps=0,
        logger=[
            CSVLogger(folder, name=_LOGS, flush_logs_every_n_steps=1),
            *make_loggers(loggers, folder),
        ],
        log_every_n_steps=1,
        callbacks=callbacks,
        plugins=[WholeCheckpoints(), *devices.plugins()],
        use_distributed_sampler=False,
        enable_progress_bar=show_progress,
        enable_model_summary=False,
        deterministic="warn",
    )


def _precision(devices: Devices) -> Literal["bf16-mixed", "32-true"]:
    """Bfloat16 autocast on CUDA devices that compute in it, float32 anywhere else."""
    on_gpu = devices.accelerator in ("auto", "gpu", "cuda") and torch.cuda.is_available()
    return "bf16-mixed" if on_gpu and torch.cuda.is_bf16_supported() else "32-true"
