"""The mean over eight orders of the tokens, for networks that read their order as if it were a map."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import torch
from torch import Tensor, nn

from tiacrossfusion.errors import UsageError
from tiacrossfusion.networks.base import SurvivalNetwork
from tiacrossfusion.networks.calling import call_with, input_names, scales_read
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput, mean_scores
from tiacrossfusion.networks.tokens import SlideTokens
from tiacrossfusion.networks.wrapper import NetworkWrapper

# A hazard of exactly 0 or 1 has no finite logit.
_EDGE = 1e-7

#: The scale whose tokens a field of the attention scores is of.
_SCALE_OF = {"x5": "5", "x10": "10", "x20": "20", "fused": "10"}

#: What tokens are sorted by, last key first: rows from above or below with columns from either side, and
#: columns likewise. These are the orders of the slide turned by quarters and mirrored.
ORDERS: tuple[Callable[[Tensor, Tensor], tuple[Tensor, Tensor]], ...] = (
    lambda column, row: (row, column),
    lambda column, row: (row, -column),
    lambda column, row: (-row, column),
    lambda column, row: (-row, -column),
    lambda column, row: (column, row),
    lambda column, row: (column, -row),
    lambda column, row: (-column, row),
    lambda column, row: (-column, -row),
)


class AveragedOrders(NetworkWrapper):
    """The mean of the survival curves that a network gives for eight orders of the tokens.

    CrossFusion wraps the order of the tokens into a square map. A slide turned by quarters or mirrored has
    the same tokens in another order; here it has the same prediction. `member_risk` holds the risk of each
    order, whose spread says how much the network reads off the order. Attention, rollout and attribution are
    averaged token by token.

    Args:
        network: reads the order of its tokens (`reads_order`).

    Raises:
        UsageError: it does not.
    """

    def __init__(self, network: SurvivalNetwork) -> None:
        """Wrap the network."""
        inner = network.unwrapped()
        if not (isinstance(inner, SurvivalNetwork) and inner.reads_order):
            raise UsageError(
                f"orders: {type(inner).__name__} does not depend on the order of its tokens; leave out "
                "--orders"
            )
        super().__init__(network.encoder_width, network.num_bins)
        self.network = network

    def needed_inputs(self) -> tuple[str, ...]:
        """Return those of the wrapped network, and the grids of its scales."""
        grids = tuple(f"grid{scale[:-1]}" for scale in scales_read(self.network))
        return (*super().needed_inputs(), *grids)

    def further_inputs(self) -> tuple[str, ...]:
        """Return those of the wrapped network, and the grids of its scales."""
        grids = tuple(f"grid{scale[:-1]}" for scale in scales_read(self.network))
        return (*super().further_inputs(), *grids)

    def predict(self, inputs: dict[str, Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict the mean curve over the orders, and as `member_risk` (B, 8) the risk of each order."""
        taken = input_names(self.network)
        outputs, scores = [], []
        for index in _sortings(inputs):
            ordered = {
                name: x.gather(1, i[:, :, None].expand_as(x))
                if (i := _index(name, index)) is not None
                else x
                for name, x in inputs.items()
                if name in taken
            }
            output = call_with(self.network, ordered, attention=attention)
            outputs.append(output)
            if output.attention is not None:
                scores.append(_put_back(output.attention, index))
        alone = [output.survival_without_record for output in outputs]
        known = [survival for survival in alone if survival is not None]
        mean = torch.stack([output.survival for output in outputs]).mean(dim=0).clamp(min=_EDGE)
        before = torch.cat([torch.ones_like(mean[:, :1]), mean[:, :-1]], dim=1)
        hazards = (1 - mean / before).clamp(_EDGE, 1 - _EDGE)
        return SurvivalOutput.from_logits(
            torch.logit(hazards),
            mean_scores(scores) if scores else None,
            member_risk=torch.stack([output.risk for output in outputs], dim=1),
            survival_without_record=torch.stack(known).mean(dim=0) if known else None,
        )

    def moments(self) -> tuple[Tensor, Tensor] | None:
        """Return those of the wrapped network."""
        return self.network.moments()

    def rollout(self, tokens: SlideTokens) -> AttentionScores | None:
        """Return the mean of the wrapped network's scores over the orders, token by token."""
        found = []
        for ordered, index in self.ordered(tokens):
            rolled = self.network.rollout(ordered)
            if rolled is None:
                return None
            found.append(_put_back(rolled, index))
        return mean_scores(found)

    def ordered(self, tokens: SlideTokens) -> Iterator[tuple[SlideTokens, dict[str, Tensor]]]:
        """Yield the tokens in each order, with the index (1, N) of "5", "10" and "20" that sorted them."""
        for index in _sortings(tokens.inputs()):
            sorted_tokens = tokens
            for scale, places in index.items():
                sorted_tokens = sorted_tokens.keep(f"{scale}x", places[0])
            yield sorted_tokens, index

    def _inner(self) -> nn.Module:
        return self.network


def sorting(grid: Tensor, order: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]) -> Tensor:
    """Return the indices (B, N) that sort tokens at column and row (B, N, 2) by one of `ORDERS`."""
    first, second = order(grid[..., 0], grid[..., 1])
    width = int(second.max() - second.min()) + 1
    return torch.argsort(first * width + (second - second.min()), dim=1)


def _sortings(inputs: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """Yield, for each of `ORDERS`, the indices (B, N) of the scales that have a grid, by "5", "10", "20"."""
    grids = {n.removeprefix("grid"): grid for n, grid in inputs.items() if n.startswith("grid")}
    for order in ORDERS:
        yield {scale: sorting(grid, order) for scale, grid in grids.items()}


def _index(name: str, index: Mapping[str, Tensor]) -> Tensor | None:
    """Return the order of the tokens of an input such as "x20" or "grid20"; None of other inputs."""
    return index.get(name.removeprefix("grid").removeprefix("x"))


def _put_back(scores: AttentionScores, index: Mapping[str, Tensor]) -> AttentionScores:
    """Return scores in the order of the bag."""
    return AttentionScores(
        **{
            name: torch.empty_like(value).scatter_(1, index[_SCALE_OF[name]], value)
            for name, value in vars(scores).items()
            if value is not None
        }
    )
