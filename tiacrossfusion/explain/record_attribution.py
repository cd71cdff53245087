"""What the variables of a clinical record add to the risk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import product
from math import factorial
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from torch import Tensor, nn

    from tiacrossfusion.networks.base import SurvivalNetwork
    from tiacrossfusion.networks.fused import FusedNetwork

#: Up to this many variables all subsets are computed, beyond this many orders are drawn, each also backwards.
_MOST_EXACT, _ORDERS = 10, 100


@dataclass(frozen=True, eq=False)
class RecordGame:
    """The risk as a function of which variables are the patient's own, the others being average.

    Attributes:
        members: the models of slide and record, one or those of an ensemble.
        weights: (M, K, 1 + K_m) that bring the members' curves to the ensemble's edges; None for one model.
        codes: (1, V) of the record.
    """

    members: Sequence[FusedNetwork]
    weights: Tensor | None
    codes: Tensor

    @classmethod
    def of(cls, network: SurvivalNetwork, codes: Tensor | None) -> RecordGame | None:
        """Return the game of a network; None if it reads no record, or nothing of it is known."""
        from tiacrossfusion.networks.ensemble import Ensemble
        from tiacrossfusion.networks.fused import FusedNetwork

        members = list(network.members) if isinstance(network, Ensemble) else [network]
        fused = [member for member in members if isinstance(member, FusedNetwork)]
        if len(fused) < len(members) or codes is None or bool(codes.isnan().all()):
            return None
        return cls(fused, network.weights if isinstance(network, Ensemble) else None, codes)

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the variables."""
        return self.members[0].record.names

    @contextmanager
    def watched(self) -> Iterator[dict[int, Tensor]]:
        """Keep the slide scores (1, S) of the members in calls of the network, by the member's number."""
        scores: dict[int, Tensor] = {}

        def keep(number: int) -> object:
            def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
                del module, inputs
                scores[number] = output.detach()

            return hook

        handles = [
            member.score.register_forward_hook(keep(number))  # type: ignore[arg-type]
            for number, member in enumerate(self.members)
        ]
        try:
            yield scores
        finally:
            for handle in handles:
                handle.remove()

    def risks(self, scores: Mapping[int, Tensor], own: np.ndarray) -> np.ndarray:
        """Return the risks (G,) for slide scores and groups (G, V) of variables that are the patient's."""
        import torch

        from tiacrossfusion.networks.output import SurvivalOutput

        typical = torch.from_numpy(~own).to(self.codes.device)
        codes = self.codes.expand(len(own), -1)
        curves = []
        with torch.inference_mode():
            for number, member in enumerate(self.members):
                score = scores[number].expand(len(own), -1)
                output = SurvivalOutput.from_logits(member.logits(score, codes, typical))
                curve = output.survival
                if self.weights is not None:
                    whole = torch.cat([torch.ones_like(curve[:, :1]), curve], dim=1)
                    curve = whole @ self.weights[number].T
                curves.append(curve)
            return -torch.stack(curves).mean(dim=0).sum(dim=1).double().cpu().numpy()

    def shapley(self, scores: Mapping[int, Tensor]) -> np.ndarray:
        """Return the Shapley values (V,) of the variables at some slide scores.

        Exact for up to ten variables; else the mean over 100 random orders and their reverses (Mitchell,
        Cooper, Frank and Holmes, JMLR 23:43, 2022), with a fixed seed.
        """
        count = len(self.names)
        if count <= _MOST_EXACT:
            return self._exact(scores, count)
        random = np.random.default_rng(0)
        values = np.zeros(count)
        for _ in range(_ORDERS):
            order = random.permutation(count)
            for forward in (order, order[::-1]):
                own = np.zeros((count + 1, count), bool)
                for step, variable in enumerate(forward):
                    own[step + 1 :, variable] = True
                values[forward] += np.diff(self.risks(scores, own))
        return values / (2 * _ORDERS)

    def _exact(self, scores: Mapping[int, Tensor], count: int) -> np.ndarray:
        own = np.array(list(product((False, True), repeat=count)))
        risks = dict(zip(map(tuple, own), self.risks(scores, own), strict=True))
        values = np.zeros(count)
        for group, risk in risks.items():
            size = sum(group)
            for variable in range(count):
                if not group[variable]:
                    larger = (*group[:variable], True, *group[variable + 1 :])
                    weight = factorial(size) * factorial(count - size - 1) / factorial(count)
                    values[variable] += weight * (risks[larger] - risk)
        return values
