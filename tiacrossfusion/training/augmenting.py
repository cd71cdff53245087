"""Changes that passes of training add to slides, so that the risk does not lean on what makes them.

A slide is moved along differences between sites (`shift`), along measured changes (`stain`), or by a
generator that is trained against the network (`adversarial`). Predictions are of slides as they are.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.models.nuisance_changes import NuisanceChanges
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import scales_read
from tiacrossfusion.networks.perturbed import Audited
from tiacrossfusion.networks.recipe import Recipe
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.slides.spec import SCALES
from tiacrossfusion.training.bags import CohortBags
from tiacrossfusion.training.generator import find_prototypes, loss_of, new_generator
from tiacrossfusion.training.patients import Patient

#: Training patients of a site at least, for its mean to be known.
FEWEST = 5

#: Patients, of whom one slide each, in a step of the generator.
ATTACKED = 4

#: Share of the passes that the generator changes, and slides that its prototypes are found on.
_SHARE, _SAMPLE = 0.5, 40

#: Times that sites are dealt to the patients anew.
_PERMUTATIONS = 20


@dataclass(frozen=True, eq=False)
class Change:
    """What a pass of training adds to B slides; drawn once, so that several passes of a slide agree.

    Attributes:
        moved: (B, 3, E) added to all tokens of 5x, 10x and 20x, in the encoder's units.
        attacked: (B,) 1 where the generator's perturbation is added, else 0.
    """

    moved: Tensor
    attacked: Tensor

    def of(self, slides: Sequence[int]) -> Change:
        """Return the changes of some slides."""
        chosen = list(slides)
        return Change(self.moved[chosen], self.attacked[chosen])


class Augmentation(nn.Module):
    """Draws changes and adds them to tokens. Its weights are the generator's, if there is one.

    Args:
        rows: (R, 3, E); a change is the sum of `c_r rows_r` with c ~ N(0, 1), so that its covariance is the
            sum of their outer products.
        strength: of the generator, in SDs; 0 for none.
        audited: the network, for the generator.
        slides: that prototypes of patches are found on, for the generator.
        seed: of the generator's weights and prototypes.

    Raises:
        TiacfError: there are fewer patches than prototypes.
    """

    rows: Tensor

    def __init__(
        self,
        rows: Tensor,
        strength: float = 0.0,
        audited: Audited | None = None,
        slides: Sequence[SlideTokens] = (),
        seed: int = 0,
    ) -> None:
        """Keep the rows, and make the generator."""
        super().__init__()
        self.register_buffer("rows", rows, persistent=False)
        self.strength = strength
        self.generator = None
        if audited is not None:
            self.generator = new_generator(audited, seed)
            found = find_prototypes(audited, slides, seed)
            for scale, centres in found.items():  # found again by a run that is resumed
                self.register_buffer(f"prototypes{scale}", centres, persistent=False)

    def draw(self, slides: int) -> Change:
        """Draw the changes of some slides, by torch's generator of the CPU."""
        multiples = torch.randn(slides, len(self.rows)).to(self.rows)
        moved = torch.einsum("br,rse->bse", multiples, self.rows)
        attacked = torch.zeros(slides)
        if self.generator is not None:
            attacked = (torch.rand(slides) < _SHARE).float()
        return Change(moved, attacked.to(self.rows))

    def add(self, change: Change, tokens: SlideTokens, network: SurvivalNetwork) -> SlideTokens:
        """Return the tokens of B slides, on the network's device, with their changes."""
        delta = {}
        if self.generator is not None and change.attacked.any():
            with torch.no_grad():
                delta = self.generator(_audited(network), tokens, self.strength)
        features = {}
        for scale in scales_read(network):
            if scale not in tokens.features:
                continue
            place = SCALES.index(scale)
            x = tokens.features[scale].float() + change.moved[:, place, None]
            if delta:
                sd = _audited(network).sd[place]
                x = x + change.attacked[:, None, None] * sd * delta[scale]
            features[scale] = x
        return tokens.with_features(features)

    def loss(self, slides: Sequence[SlideTokens], network: SurvivalNetwork) -> Tensor:
        """Return the generator's mean loss on slides; the network is in eval mode."""
        assert self.generator is not None  # noqa: S101 - the caller has looked
        audited = _audited(network)
        prototypes = {scale: self.get_buffer(f"prototypes{scale}") for scale in audited.scales}
        losses = [
            loss_of(self.generator, audited, slide, self.strength, prototypes) for slide in slides
        ]
        return torch.stack(losses).mean()


def make_augmentation(
    network: SurvivalNetwork,
    recipe: Recipe,
    bags: CohortBags,
    training: Sequence[Patient],
    nuisance: Path | None,
    seed: int,
    say: Callable[[str], None] = lambda _: None,
) -> Augmentation | None:
    """Return what a recipe adds to the passes of training; None for nothing.

    Args:
        network: with the moments of its features.
        recipe: of the network.
        bags: of the cohort.
        training: patients of the fold; sites are compared among these alone.
        nuisance: file of measured changes.
        seed: of the generator, and of permutations of the sites.
        say: gets a line on the sites.

    Raises:
        TiacfError: a file or the patients do not serve; names the remedy.
    """
    rows = [torch.zeros(0, len(SCALES), bags.encoder.width)]
    if recipe.stain:
        assert nuisance is not None  # noqa: S101 - the plan has looked
        measured = NuisanceChanges.load(nuisance)
        rows.append(recipe.stain * measured.changes / len(measured.changes) ** 0.5)
    if recipe.shift:
        found, said = differences_of_sites(bags, training, seed)
        say(said)
        rows.append(recipe.shift * found)
    if not (recipe.stain or recipe.shift or recipe.adversarial):
        return None
    if not recipe.adversarial:
        return Augmentation(torch.cat(rows))
    names = [slide for patient in training for slide in patient.slides]
    some = np.random.default_rng(seed).permutation(len(names))[:_SAMPLE]
    slides = [tokens for (tokens,) in bags.read([names[i]] for i in some)]
    return Augmentation(torch.cat(rows), recipe.adversarial, _audited(network), slides, seed)


def differences_of_sites(
    bags: CohortBags, patients: Sequence[Patient], seed: int
) -> tuple[Tensor, str]:
    """Return the directions (S, 3, E) in which sites differ more than by chance, and a line on them.

    The rows `root(n_g / n) (m_g - m)`, with m_g the mean feature of the n_g patients of a site g and m that
    of all, have the covariance between the sites as the sum of their outer products. Of their singular
    directions, with features in SDs over the patients, those are kept that are larger than any when sites are
    dealt to the patients anew: else the patients' own differences would be taken for those of small sites.
    Sites of fewer than 5 patients are left out.

    Args:
        bags: of the cohort.
        patients: of the training part.
        seed: of the dealing.

    Raises:
        TiacfError: there are fewer than two sites.
    """
    sites = np.array([str(patient.site) for patient in patients])
    names = sites_with_a_mean(sites)
    if len(names) < 2:
        raise TiacfError(too_few(sites))
    known = np.isin(sites, names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)  # of an absent scale
        means = np.stack([np.nanmean(bags.means(one.slides), axis=0) for one in patients])[known]
        shape, means = means.shape[1:], means.reshape(len(means), -1)  # (P, 3 E)
        centre, sd = np.nanmean(means, axis=0), np.nanstd(means, axis=0)
    sd = np.where(sd > 0, sd, 0.0)  # of a scale that no slide has, too
    z = np.nan_to_num((means - centre) / np.where(sd > 0, sd, 1.0))
    numbers = np.searchsorted(names, sites[known])
    _, values, vectors = np.linalg.svd(_between(z, numbers), full_matrices=False)
    rng = np.random.default_rng(seed)
    chance = max(
        np.linalg.norm(_between(z, rng.permutation(numbers)), 2) for _ in range(_PERMUTATIONS)
    )
    kept = values > chance
    rows = (values[:, None] * vectors * sd)[kept].reshape(-1, *shape)
    said = (
        f"{len(rows)} of {len(names) - 1} directions between {len(names)} sites exceed those of "
        f"{_PERMUTATIONS} permutations"
    )
    return torch.from_numpy(rows).float(), said


def _between(z: np.ndarray, sites: np.ndarray) -> np.ndarray:
    """Return the rows (G, F) of `differences_of_sites` for standardised means (P, F) and sites (P,)."""
    counts = np.bincount(sites)
    of_sites = np.stack([z[sites == site].mean(axis=0) for site in range(len(counts))])
    return np.sqrt(counts / len(z))[:, None] * (of_sites - z.mean(axis=0))


def sites_with_a_mean(sites: np.ndarray) -> list[str]:
    """Return the names of the sites (N,) of patients that have 5 patients or more."""
    names, counts = np.unique(sites, return_counts=True)
    return names[counts >= FEWEST].tolist()


def too_few(sites: np.ndarray) -> str:
    """Return what is wrong with too few sites (N,) of patients."""
    found = sites_with_a_mean(sites)
    return (
        f"--augment shift: {len(found)} of {len(np.unique(sites))} sites have {FEWEST} or more of the "
        f"{len(sites)} training patients, and differences are between two or more; name another column with "
        "--site, or leave shift out"
    )


def _audited(network: SurvivalNetwork) -> Audited:
    moments = network.moments()
    assert moments is not None  # noqa: S101 - the plan asks for standardised features
    return Audited(network, scales_read(network), *moments)
