"""A generator that makes an adversary in one forward pass, learnt without labels (GenSeg)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity

from tiacrossfusion.errors import TiacfError
from tiacrossfusion.networks.perturbed import Audited
from tiacrossfusion.networks.tokens import SlideTokens

#: Prototypes of a scale, and patches of a slide from which they are found.
PROTOTYPES, _SAMPLED = 16, 200

#: Passes over slides, learning rate, width, and the weight of the prototypes' loss.
EPOCHS, _RATE, _WIDTH, _BETA = 6, 1e-2, 64, 1.0


class Generator(nn.Module):
    """`delta(z) = strength * tanh(MLP_s(z))` for each token z of scale s, in SDs of the training features.

    After Zhang et al., "GenSeg: On Generating Unified Adversary for Segmentation", IJCAI 2024, with the
    tokens of a slide in the place of an image.

    Args:
        scales: of the tokens.
        width: E, of the features.
    """

    def __init__(self, scales: Sequence[str], width: int) -> None:
        """Create the networks."""
        super().__init__()
        self.scales = tuple(scales)
        self.networks = nn.ModuleList(
            nn.Sequential(nn.Linear(width, _WIDTH), nn.ReLU(), nn.Linear(_WIDTH, width))
            for _ in self.scales
        )

    def forward(self, audited: Audited, slide: SlideTokens, strength: float) -> dict[str, Tensor]:
        """Return the perturbation (B, N, E) of each scale."""
        return {
            scale: strength * torch.tanh(network(audited.standardised(slide, scale)))
            for scale, network in zip(self.scales, self.networks, strict=True)
        }


def fit_generator(
    audited: Audited, slides: Sequence[SlideTokens], strength: float, seed: int = 0
) -> Generator:
    """Train a generator on slides, without their risks or follow-up.

    It maximises, for each slide,

        sum_F [1 - cos(F(z + delta), F(z))] + beta mean_k |d(z + delta, c_k) - d(z, c_k)|

    where F are the embedded tokens of each scale and the vector before the network's last layer (mutual
    agreement), and c_k the 16 prototypes of each scale, k-means centres of standardised tokens, with d the
    distance over the root of E (prototype obfuscation).

    Args:
        audited: the network that is attacked.
        slides: to learn on.
        strength: largest change of a feature, in SDs.
        seed: of weights, prototypes and order.

    Raises:
        TiacfError: there are fewer tokens than prototypes.
    """
    prototypes = find_prototypes(audited, slides, seed)
    random = torch.Generator().manual_seed(seed)
    made = new_generator(audited, seed).to(audited.sd.device)
    optimiser = optimiser_of(made)
    for _ in range(EPOCHS):
        for i in torch.randperm(len(slides), generator=random).tolist():
            optimiser.zero_grad()
            loss_of(made, audited, slides[i], strength, prototypes).backward()
            optimiser.step()
    return made.eval().requires_grad_(requires_grad=False)


def new_generator(audited: Audited, seed: int) -> Generator:
    """Return a generator for a network, with weights by a seed of their own."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return Generator(audited.scales, audited.sd.shape[1])


def optimiser_of(generator: Generator) -> torch.optim.Optimizer:
    """Return the optimiser that a generator is trained with."""
    return torch.optim.Adam(generator.parameters(), lr=_RATE)


def loss_of(
    generator: Generator,
    audited: Audited,
    slide: SlideTokens,
    strength: float,
    prototypes: Mapping[str, Tensor],
) -> Tensor:
    """Return minus what a generator maximises (see `fit_generator`) on one slide."""
    with torch.no_grad(), _watched(audited) as kept:
        audited.risk(slide)
        before = [value.detach() for value in kept]
    with torch.enable_grad(), _watched(audited) as kept:
        delta = generator(audited, slide, strength)
        audited.risk(slide, delta)
        pairs = zip(kept, before, strict=True)
        apart = torch.stack([(1 - cosine_similarity(a, b, dim=-1)).mean() for a, b in pairs])
        moved = [
            _scrambled(audited.standardised(slide, scale)[0], delta[scale][0], prototypes[scale])
            for scale in audited.scales
        ]
        return -(apart.sum() + _BETA * torch.stack(moved).sum())


def _scrambled(z: Tensor, delta: Tensor, prototypes: Tensor) -> Tensor:
    """Return how far a perturbation (N, E) changes the distances of tokens to prototypes (K, E)."""
    root = z.shape[1] ** 0.5
    before = torch.cdist(z, prototypes) / root
    return (torch.cdist(z + delta, prototypes) / root - before).abs().mean()


@contextmanager
def _watched(audited: Audited) -> Iterator[list[Tensor]]:
    """Collect the embedded tokens, and what goes into the last linear layer, in the passes within."""
    kept: list[Tensor] = []
    network = audited.network

    def embedded(_: nn.Module, __: object, made: Tensor | list[Tensor]) -> None:
        kept.extend(made if isinstance(made, list) else [made])

    def before_last(_: nn.Module, given: tuple[Tensor, ...]) -> None:
        kept.append(given[0].flatten(0, -2))

    handles = [module.register_forward_hook(embedded) for module in network.embeddings()]
    layers = [module for module in network.modules() if isinstance(module, nn.Linear)]
    if layers:
        handles.append(layers[-1].register_forward_pre_hook(before_last))
    try:
        yield kept
    finally:
        for handle in handles:
            handle.remove()


def find_prototypes(
    audited: Audited, slides: Iterable[SlideTokens], seed: int
) -> dict[str, Tensor]:
    """Return centres (K, E) of the standardised tokens of each scale.

    Raises:
        TiacfError: there are fewer tokens than prototypes.
    """
    from sklearn.cluster import MiniBatchKMeans

    rng = np.random.default_rng(seed)
    drawn: dict[str, list[Tensor]] = {scale: [] for scale in audited.scales}
    for slide in slides:
        for scale, parts in drawn.items():
            z = audited.standardised(slide, scale)[0]
            parts.append(z[torch.from_numpy(rng.permutation(len(z))[:_SAMPLED]).to(z.device)].cpu())
    found = {}
    for scale, parts in drawn.items():
        points = torch.cat(parts).numpy()
        if len(points) < PROTOTYPES:
            raise TiacfError(
                f"{len(points)} patches at {scale}: fewer than the {PROTOTYPES} prototypes of the generator; "
                "give more or larger slides"
            )
        fit = MiniBatchKMeans(PROTOTYPES, n_init=3, random_state=seed).fit(points)
        found[scale] = torch.from_numpy(fit.cluster_centers_).to(audited.sd)
    return found
