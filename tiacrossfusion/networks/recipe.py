"""How a network is trained unless the user says otherwise."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True)
class Recipe:
    """Loss, optimiser, steps and width of a network. The defaults are the paper's (docs/crossfusion.md).

    A network of your own has one as its class attribute `recipe`; without it, it takes the defaults.

    Attributes:
        loss: "nll" (discrete likelihood), "cox" (partial likelihood over the patients of a step) or
            "cross-entropy".
        alpha: weight of the event part in "nll" and "cross-entropy".
        learning_rate: the highest, reached after the warm-up.
        weight_decay: of AdamW, on weight matrices.
        input_weight_decay: the same for the weights of the modules that embed tokens
            (`SurvivalNetwork.embeddings`). Features vary more along what many patients share, so that a
            strong decay here favours it, like a ridge penalty.
        patients_per_step: patients whose gradients are accumulated into one step of the optimiser.
        epochs: at most.
        warm_up: epochs of linear warm-up, before the cosine.
        patience: epochs without a better validation figure before training stops.
        monitor: what "better" means: a lower validation loss or a higher validation C-index.
        gradient_clip: largest norm of the gradient.
        least_steps: steps of the optimiser that the network needs to learn; fewer patients get more epochs,
            with warm-up and patience in proportion.
        embed_dim: D, width inside the network.
        dropout: of embedded tokens and feed-forward layers.
        statistics: add statistics along directions found in closed form (see `SlideStatistics`), if the
            training patients support any.
        cell_share: share of the 5x cells of a slide, with all inside them, that a pass of training sees,
            drawn anew for each.
        scale_dropout: probability that a pass of training has the average token in place of those of a scale.
        stain: SD of the multiples of measured changes that a pass of training adds to the tokens.
        shift: SD of the multiples of differences between the sites' mean features that it adds.
        adversarial: largest change of a feature, in SDs, by a generator that is trained against the network.
    """

    loss: Literal["nll", "cox", "cross-entropy"] = "nll"
    alpha: float = 0.2
    learning_rate: float = 1e-4
    weight_decay: float = 1e-2
    input_weight_decay: float = 1e-2
    patients_per_step: int = 32
    epochs: int = 100
    warm_up: int = 5
    patience: int = 20
    monitor: Literal["loss", "c-index"] = "loss"
    gradient_clip: float = 1.0
    least_steps: int = 1
    embed_dim: int = 512
    dropout: float = 0.3
    statistics: bool = False
    cell_share: float = 1.0
    scale_dropout: float = 0.0
    stain: float = 0.0
    shift: float = 0.0
    adversarial: float = 0.0

    def summary(self) -> str:
        """Return the recipe in one line."""
        return (
            f"loss {self.loss}, learning rate {self.learning_rate:g}, weight decay {self.weight_decay:g} "
            f"(inputs {self.input_weight_decay:g}), {self.patients_per_step} patients a step, "
            f"{self.epochs} epochs (at least {self.least_steps} steps), warm-up {self.warm_up}, "
            f"patience {self.patience} by validation {self.monitor}, width {self.embed_dim}, "
            f"dropout {self.dropout:g}"
        )

    def lengthened(self, steps: int) -> Recipe:
        """Return the recipe with enough epochs of so many steps for `least_steps` in all.

        Warm-up and patience are raised in proportion.
        """
        factor = max(1.0, self.least_steps / (self.epochs * steps))
        longer = {
            name: math.ceil(factor * getattr(self, name))
            for name in ("epochs", "warm_up", "patience")
        }
        return replace(self, **longer)


#: The paper's recipe, for any network.
PAPER = Recipe()

#: What the searched recipes share (benchmarks/recipes.md, benchmarks/planted_cohort.md); the networks add
#: the decay of their inputs.
SEARCHED = Recipe(
    loss="cox",
    learning_rate=3e-3,
    epochs=25,
    warm_up=3,
    patience=7,
    monitor="c-index",
    least_steps=300,
    embed_dim=32,
    dropout=0.1,
)
