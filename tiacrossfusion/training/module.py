"""The training loop of one fold as a Lightning module."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import lightning
import numpy as np
import torch
from lightning.pytorch.core.optimizer import LightningOptimizer
from lightning.pytorch.utilities.types import OptimizerConfig, OptimizerLRSchedulerConfig
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler
from torch.utils.data import DataLoader, DistributedSampler

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_network
from tiacrossfusion.networks.recipe import Recipe
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.trained import TrainedNetwork
from tiacrossfusion.survival import TimeBins, risk_of, survival_curve
from tiacrossfusion.survival.concordance import harrell_c
from tiacrossfusion.survival.losses import cox_loss, cross_entropy_loss, nll_loss
from tiacrossfusion.training.augmenting import ATTACKED, Augmentation, Change
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.generator import optimiser_of
from tiacrossfusion.training.optimising import share_of_rate, weight_groups
from tiacrossfusion.training.parts import random_part
from tiacrossfusion.training.patients import (
    Patient,
    average_log_hazards,
    average_over_slides,
    groups_of_equal_shape,
    in_order,
    passes,
    patient_outputs,
    times_and_events,
)


class SurvivalTraining(lightning.LightningModule):
    """Fits a network to the patients of one fold; `validation` patients are never fitted.

    A batch of the data loader is the patients of one step of the optimiser. Their slides go through
    the network one after the other and their gradients add up, so that memory is that of one slide
    at any size of the step; losses are computed in float32 or wider.

    Cox's partial likelihood compares the patients of a step with each other, and a patient's hazards
    are the mean over the slides: there the loss needs the outputs of several slides at once. These are
    first computed without graphs; the loss gives their gradients, and each slide is then passed again,
    with the same random numbers and changes, to carry its gradient to the weights. That loss takes a
    `TrainedNetwork` with proportional hazards.

    An `augmentation` adds changes to the slides that are fitted. Its generator takes a step against the
    network before each step of the network; its weights and optimiser are in the checkpoints.
    """

    def __init__(
        self,
        network: nn.Module,
        bags: CohortBags,
        training: Sequence[Patient],
        validation: Sequence[Patient],
        bins: TimeBins,
        settings: Recipe,
        seed: int,
        augmentation: Augmentation | None = None,
    ) -> None:
        """Keep what training needs."""
        super().__init__()
        # Several backward passes make one step, which needs Lightning's manual optimisation.
        self.automatic_optimization = False
        self.network = network
        self.bags = bags
        self.training_patients, self.validation_patients = list(training), list(validation)
        self.bins, self.settings, self.seed = bins, settings, seed
        self.augmentation = augmentation
        self._losses: list[tuple[float, int]] = []  # of the epoch's steps, with their patients

    def train_dataloader(self) -> DataLoader:
        """Patients of one optimiser step a batch, in an order that depends on seed and epoch only."""
        sampler: DistributedSampler = DistributedSampler(
            self.training_patients,  # type: ignore[arg-type]
            num_replicas=self.trainer.world_size,
            rank=self.trainer.global_rank,
            seed=self.seed,
        )
        return DataLoader(
            self.training_patients,  # type: ignore[arg-type]
            batch_size=self.settings.patients_per_step,
            sampler=sampler,
            collate_fn=list,
        )

    def val_dataloader(self) -> DataLoader:
        """All validation patients in one batch; every device sees them all."""
        return DataLoader(
            self.validation_patients,  # type: ignore[arg-type]
            batch_size=len(self.validation_patients),
            collate_fn=list,
        )

    def transfer_batch_to_device(
        self, batch: list[Patient], device: torch.device, dataloader_idx: int
    ) -> list[Patient]:
        """Leave patients where they are: their tokens are moved slide by slide."""
        del device, dataloader_idx
        return batch

    def on_train_epoch_start(self) -> None:
        """Begin to gather losses."""
        self._losses = []

    def training_step(self, batch: list[Patient], batch_idx: int) -> None:
        """Accumulate the gradients of the patients and take one step."""
        del batch_idx
        # Dropout depends on seed, step and device only, so that a resumed run draws the same numbers.
        torch.manual_seed(
            (self.seed * 1_000_003 + self.trainer.global_step) * 1_009 + self.trainer.global_rank
        )
        optimisers = self.optimizers()
        # The second is the generator's.
        both = optimisers if isinstance(optimisers, list) else [optimisers]
        optimiser, *others = both
        for other in others:
            self._train_generator(batch, other)
        schedule = cast(LRScheduler, self.lr_schedulers())
        optimiser.zero_grad()
        units = self._units(batch)
        slides = [[slide for patient in unit for slide in patient.slides] for unit in units]
        total = 0.0
        for unit, loaded in zip(units, self.bags.read(slides), strict=True):
            total += self._backward(unit, loaded, weight=len(unit) / len(batch))
        self._average_over_devices(self.network)
        self.clip_gradients(
            optimiser.optimizer,
            gradient_clip_val=self.settings.gradient_clip,
            gradient_clip_algorithm="norm",
        )
        optimiser.step()
        schedule.step()
        if not math.isfinite(total):
            raise TiacfError(
                f"the training loss is {total} in epoch {self.current_epoch}; "
                "take a smaller --learning-rate"
            )
        self._losses.append((total, len(batch)))

    def validation_step(self, batch: list[Patient], batch_idx: int) -> None:
        """Log loss and Harrell's C of all validation patients, and the mean loss of the epoch's steps.

        Slides are changed like those of training, in all epochs by the same draws: else the epoch would be
        chosen that makes the most of what the network is trained against. Both are logged here: Lightning
        logs training metrics after the checkpoint, so a kill between the two would lose them.
        """
        del batch_idx
        # (N, K), or (N, 1) of the Cox loss
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(self.seed)
            outputs = patient_outputs(batch, self.bags, self._moved_outputs, self._average)
        loss = float(self._loss(outputs, batch))
        values = outputs.double().cpu().numpy()
        risks = values[:, 0] if self.settings.loss == "cox" else risk_of(survival_curve(values))
        times, events = times_and_events(batch)
        c_index = harrell_c(times, events, risks)
        steps = np.array(self._losses)  # (steps, 2)
        train_loss = np.average(steps[:, 0], weights=steps[:, 1])
        figures = {"train_loss": float(train_loss), "val_loss": loss, "val_c": c_index}
        self.log_dict(figures, batch_size=len(batch))

    def configure_optimizers(self) -> tuple[OptimizerLRSchedulerConfig | OptimizerConfig, ...]:
        """AdamW; linear warm-up, then a cosine that reaches 0 with the last step, once.

        A generator has its own optimiser, the second.
        """
        optimiser = torch.optim.AdamW(
            weight_groups(self.network, self.settings), lr=self.settings.learning_rate
        )
        steps = math.ceil(
            len(self.training_patients)
            / (self.trainer.world_size * self.settings.patients_per_step)
        )
        warm_up, total = self.settings.warm_up * steps, self.settings.epochs * steps
        share = partial(share_of_rate, warm_up=warm_up, total=total)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, share)
        of_network: OptimizerLRSchedulerConfig = {
            "optimizer": optimiser,
            "lr_scheduler": {"scheduler": schedule, "interval": "step"},
        }
        generator = None if self.augmentation is None else self.augmentation.generator
        if generator is None:
            return (of_network,)
        return of_network, {"optimizer": optimiser_of(generator)}

    def _units(self, batch: list[Patient]) -> list[list[Patient]]:
        """Split a step into the smallest parts whose losses add up."""
        if self.settings.loss == "cox":
            return [batch]
        groups = groups_of_equal_shape(batch, self.bags)
        return [[batch[position] for position in group] for group in groups]

    def _backward(self, unit: list[Patient], loaded: list[SlideTokens], weight: float) -> float:
        """Add the gradient of `weight * loss` of some patients; return that loss."""
        if isinstance(self.network, SurvivalNetwork):
            loaded = [random_part(tokens, self.network, self.settings) for tokens in loaded]
        change = None if self.augmentation is None else self.augmentation.draw(len(loaded))
        members = passes(loaded)
        if len(members) == 1:
            outputs = self._outputs(SlideTokens.stack(loaded), change)
            loss = self._loss(self._average(outputs, unit), unit) * weight
            loss.backward()
            return float(loss.detach())
        # Several passes: outputs first, then the gradients of each, as described in the class docstring.
        stacks = [
            (
                SlideTokens.stack([loaded[i] for i in part]),
                None if change is None else change.of(part),
            )
            for part in members
        ]
        states, parts = [], []
        with torch.no_grad():
            for tokens, own in stacks:
                states.append(_random_state(self.device))
                parts.append(self._outputs(tokens, own))
        leaf = in_order(parts, members).requires_grad_()  # (S, K)
        loss = self._loss(self._average(leaf, unit), unit) * weight
        (gradient,) = torch.autograd.grad(loss, leaf)
        after = _random_state(self.device)
        for (tokens, own), part, state in zip(stacks, members, states, strict=True):
            _set_random_state(state, self.device)
            self._outputs(tokens, own).backward(gradient[part])
        _set_random_state(after, self.device)
        return float(loss.detach())

    def _train_generator(self, batch: list[Patient], optimiser: LightningOptimizer) -> None:
        """Take a step of the generator against the network, which predicts as it would for a patient."""
        assert self.augmentation is not None  # noqa: S101 - there is an optimiser
        generator = cast(nn.Module, self.augmentation.generator)
        slides = [
            tokens for (tokens,) in self.bags.read([one.slides[0]] for one in batch[:ATTACKED])
        ]
        self.network.eval()
        with self.trainer.precision_plugin.forward_context():
            loss = self.augmentation.loss(
                [tokens.to(self.device) for tokens in slides], cast(SurvivalNetwork, self.network)
            )
        self.network.train()
        weights = list(generator.parameters())
        # The network gets no gradient of this loss.
        for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
            weight.grad = gradient
        self._average_over_devices(generator)
        optimiser.step()

    def _moved_outputs(self, tokens: SlideTokens) -> Tensor:
        """Outputs of B slides of validation patients."""
        change = None if self.augmentation is None else self.augmentation.draw(len(tokens))
        return self._outputs(tokens, change)

    def _outputs(self, tokens: SlideTokens, change: Change | None = None) -> Tensor:
        """Outputs of B slides: (B, 1) log-hazards for the Cox loss, else (B, K) hazards."""
        tokens = tokens.to(self.device)
        with self.trainer.precision_plugin.forward_context():
            if self.augmentation is not None and change is not None:
                network = cast(SurvivalNetwork, self.network)
                tokens = self.augmentation.add(change, tokens, network)
            if self.settings.loss == "cox":
                assert isinstance(self.network, TrainedNetwork)  # noqa: S101 - as fit_fold built it
                return self.network.log_hazard(tokens).float()[:, None]
            return call_network(self.network, tokens).hazards

    def _average(self, outputs: Tensor, patients: Sequence[Patient]) -> Tensor:
        """Average the hazards of a patient's slides, (S, K) to (P, K)."""
        if self.settings.loss == "cox":  # hazards are averaged, these are their logarithms
            return average_log_hazards(outputs, patients)
        return average_over_slides(outputs, patients)

    def _loss(self, outputs: Tensor, patients: list[Patient]) -> Tensor:
        times, events = times_and_events(patients)
        observed = torch.as_tensor(events, device=outputs.device)
        if self.settings.loss == "cox":
            return cox_loss(outputs[:, 0], torch.as_tensor(times, device=outputs.device), observed)
        bins = torch.as_tensor(self.bins.index(times), device=outputs.device)
        if self.settings.loss == "nll":
            return nll_loss(outputs, bins, observed, self.settings.alpha)
        return cross_entropy_loss(outputs, bins, observed, self.settings.alpha)

    def _average_over_devices(self, network: nn.Module) -> None:
        """Bring the same mean gradient to all devices, once per step.

        DDP would synchronise in every backward pass, and devices run different numbers of them.
        """
        if self.trainer.world_size == 1:
            return
        for weight in network.parameters():
            if weight.requires_grad:
                gradient = torch.zeros_like(weight) if weight.grad is None else weight.grad
                weight.grad = self.trainer.strategy.reduce(gradient, reduce_op="mean")


def _random_state(device: torch.device) -> tuple[Tensor, Tensor | None]:
    """State of the random numbers that dropout draws from."""
    on_device = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
    return torch.get_rng_state(), on_device


def _set_random_state(state: tuple[Tensor, Tensor | None], device: torch.device) -> None:
    """Go back to a state."""
    torch.set_rng_state(state[0])
    if state[1] is not None:
        torch.cuda.set_rng_state(state[1], device)
