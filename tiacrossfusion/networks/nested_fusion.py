"""Nested fusion: survival from tokens that are compared with the tokens inside and around them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.functional import linear

from tiacrossfusion.networks.base import SurvivalNetwork, Term
from tiacrossfusion.networks.families import Families
from tiacrossfusion.networks.output import AttentionScores, SurvivalOutput
from tiacrossfusion.networks.pooling import Pool, family_rows, sum_by
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import initialise


class NestedFusion(SurvivalNetwork):
    """Products of each 10x token with the 20x tokens inside it and the 5x token around it.

    One slide: `x5` (N5, E), `x10` (N10, E) and `x20` (N20, E), with `n_i` the number of 20x tokens inside
    10x token i::

        h_s    = Dropout(ReLU(W_s x_s + b_s))                 s in {5, 10, 20}
        f_i    = sum_j a_ij h20_j                             j: the children of i
        a_ij   = softmax_j((A (B h10_i + b) + a) . h20_j / sqrt(D))
        s_i    = h10_i
        c_i    = h5 of the parent of i, or 0 if it has no parent, as f_i without children
        p^ab_i = (L_ab a_i + l_ab) * (M_ab b_i + m_ab)        (a, b) in {(f, c), (s, f), (s, c)}
        t_i    = ReLU(W_t [s_i; f_i; c_i] + b_t)
        g      = [mean h5; mean h10; mean h20; mean p^fc; mean p^sf; mean p^sc; mean t]
        logits = W_o Dropout(ReLU(W_h g + b_h)) + b_o

    `*` is elementwise. B maps to R dimensions. A and a start at 0, so that f_i starts as the mean over the
    children. Means of terms with f_i weight 10x token i by n_i, so that every 20x token counts the same
    whatever was kept beside it. Means run over the tokens that have what a term needs; nothing is padded,
    and the order of the tokens does not matter. The means of h beside those of the products let the head
    subtract the product of the means; without products this is mean pooling.

    Time and memory are linear in the tokens. `docs/nested_fusion.md` describes what it was compared with.

    Args:
        encoder_width: E, width of the input features.
        embed_dim: D, width inside the network.
        num_bins: K, time bins of the survival curve.
        pair_dim: R, width of the products; 0 takes D / 8, at least 8.
        dropout: dropout of the embedded tokens and of the head.

    Raises:
        UsageError: a size is below 1 or too large.
    """

    attention_meanings: ClassVar[Mapping[str, str]] = {
        "20x": "Weight of the 20x patch among the patches inside the same 10x patch; equal weights say that "
        "none of them stands out."
    }
    recipe: ClassVar[Recipe] = replace(SEARCHED, input_weight_decay=15.0, statistics=True)

    def __init__(
        self,
        encoder_width: int = 1024,
        embed_dim: int = 512,
        num_bins: int = 4,
        *,
        pair_dim: int = 0,
        dropout: float = 0.1,
    ) -> None:
        """Create the network with fresh weights."""
        rank = pair_dim or max(8, embed_dim // 8)
        super().__init__(encoder_width, num_bins, embed_dim=embed_dim, pair_dim=rank)
        self.embed_dim = embed_dim
        self.embed5 = Embedding(encoder_width, embed_dim, dropout)
        self.embed10 = Embedding(encoder_width, embed_dim, dropout)
        self.embed20 = Embedding(encoder_width, embed_dim, dropout)
        self.attend_narrow = nn.Linear(embed_dim, rank)
        self.attend = nn.Linear(rank, embed_dim)
        self.fine_coarse = Product(embed_dim, rank)
        self.source_fine = Product(embed_dim, rank)
        self.source_coarse = Product(embed_dim, rank)
        self.triple = nn.Linear(3 * embed_dim, embed_dim)
        self.hidden = nn.Linear(4 * embed_dim + 3 * rank, embed_dim)
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(embed_dim, num_bins)
        self.apply(initialise)
        nn.init.zeros_(self.attend.weight)

    def forward(
        self,
        x5: Tensor,
        x10: Tensor,
        x20: Tensor,
        *,
        grid5: Tensor,
        grid10: Tensor,
        grid20: Tensor,
        attention: bool = False,
    ) -> SurvivalOutput:
        """Predict survival from tokens and their places.

        Scores at 20x are `n_i a_ij / N20`: 1/N20 for a token that counts as much as its siblings.
        """
        self.check_features(x5=x5, x10=x10, x20=x20)
        families = Families.of(grid5, grid10, grid20)
        slides = len(x20)
        coarse, source, fine = self.embed5(x5), self.embed10(x10), self.embed20(x20)  # (B, N, D)
        means = [tokens.mean(dim=1) for tokens in (coarse, source, fine)]  # (B, D) each
        terms, shares = self._terms(coarse, source, fine, families)
        means += [weighted_mean(term, weight, slides) for term, weight in terms]
        logits = self._head(torch.cat(means, dim=1))  # (B, K)
        if not attention:
            return SurvivalOutput.from_logits(logits)
        wide = shares.detach().to(torch.promote_types(shares.dtype, torch.float32))
        siblings = selected(families.children10[:, None], families.parent20)[:, 0]
        scores = (wide * siblings).view(slides, -1) / x20.shape[1]  # (B, N20)
        return SurvivalOutput.from_logits(logits, AttentionScores(x20=scores))

    pools_families = True

    def family_sums(self, inputs: Mapping[str, Tensor]) -> list[Pool]:
        """Return the sums of h at each scale, of the products and of t; all families are whole."""
        families = Families.of(inputs["grid5"], inputs["grid10"], inputs["grid20"])
        coarse, source, fine = (
            embed(inputs[name])
            for embed, name in zip(
                (self.embed5, self.embed10, self.embed20), ("x5", "x10", "x20"), strict=True
            )
        )
        terms, _ = self._terms(coarse, source, fine, families)
        rows, count = family_rows(inputs), coarse.shape[1]
        of_cells = [sum_by(term * weight[:, None], rows["10x"], count) for term, weight in terms]
        # In whole families a weight n_i sums to the number of 20x tokens, a weight of 1 to that at 10x.
        return [
            Pool("5x", coarse[0], reads="5x"),
            Pool("10x", sum_by(source[0], rows["10x"], count), reads="10x"),
            Pool("20x", sum_by(fine[0], rows["20x"], count)),
            *(Pool(s, x, s) for s, x in zip(("20x", "20x", "10x", "20x"), of_cells, strict=True)),
        ]

    def from_means(
        self, means: Iterator[Tensor], counts: Mapping[str, int], covariates: Tensor | None = None
    ) -> SurvivalOutput:
        """Predict from the means g."""
        del counts, covariates
        return SurvivalOutput.from_logits(
            self._head(torch.cat([next(means) for _ in range(7)], dim=1))
        )

    def _head(self, pooled: Tensor) -> Tensor:
        """Return the logits (B, K) of g (B, 4 D + 3 R)."""
        return self.head(self.dropout(torch.relu(self.hidden(pooled))))

    def _terms(
        self, coarse: Tensor, source: Tensor, fine: Tensor, families: Families
    ) -> tuple[list[tuple[Tensor, Tensor]], Tensor]:
        """Return p^fc, p^sf, p^sc and t (B * N10, ...) with their weights in the means, and a_ij."""
        tokens10 = source.flatten(0, 1)  # (B * N10, D), as all of the following
        inside, shares = self._inside(tokens10, fine.flatten(0, 1), families)
        tokens5 = coarse.flatten(0, 1)  # (B * N5, D)
        around = selected(tokens5, families.parent10)
        weights = _Weights.of(families, tokens10)
        # W_t [s; f; c] in three parts, that of c once for each 5x token.
        part_source, part_fine, part_coarse = self.triple.weight.split(self.embed_dim, dim=1)
        joined = (
            linear(tokens10, part_source, self.triple.bias)
            .add_(linear(inside, part_fine))
            .add_(selected(linear(tokens5, part_coarse), families.parent10))
            .relu_()
        )
        terms = [
            (self.fine_coarse(inside, around), weights.fine_coarse),
            (self.source_fine(tokens10, inside), weights.fine),
            (self.source_coarse(tokens10, around), weights.coarse),
            (joined, weights.fine),
        ]
        return terms, shares

    def embeddings(self) -> Mapping[nn.Module, tuple[str, ...]]:
        """Return the embedding of each scale."""
        return {self.embed5: ("5x",), self.embed10: ("10x",), self.embed20: ("20x",)}

    def terms(self) -> Mapping[nn.Module, Term]:
        """Return the products."""
        return {
            self.fine_coarse: Term("20x inside 5x", "10x"),
            self.source_fine: Term("20x inside 10x", "10x"),
            self.source_coarse: Term("10x inside 5x", "10x"),
        }

    def _inside(self, source: Tensor, fine: Tensor, families: Families) -> tuple[Tensor, Tensor]:
        """Return f_i (B * N10, D), 0 without children, and the share a_ij (B * N20,) of each 20x token."""
        parent = families.parent20
        place = parent.clamp(min=0)
        query = self.attend(self.attend_narrow(source))  # (B * N10, D)
        logits = _dot(query.index_select(0, place), fine) / self.embed_dim**0.5  # (B * N20,)
        logits = logits.masked_fill(parent < 0, -torch.inf)
        # Any constant a family leaves the shares as they are; the largest logit avoids overflow.
        highest = logits.new_full((len(source),), -torch.inf).scatter_reduce(
            0, place, logits.detach(), "amax"
        )
        highest = torch.where(highest.isinf(), 0.0, highest)  # a cell without children
        powers = (logits - highest[place]).exp()
        total = powers.new_zeros(len(source)).index_add(0, place, powers)
        shares = powers / total[place].clamp(min=torch.finfo(powers.dtype).tiny)
        # In mixed precision on a GPU, exp and with it the shares are float32.
        shared = (shares[:, None] * fine).to(fine.dtype)
        return fine.new_zeros(source.shape).index_add(0, place, shared), shares


class Product(nn.Module):
    """`(L a + l) * (M b + m)`, elementwise: (N, R) of a and b (N, D)."""

    def __init__(self, embed_dim: int, rank: int) -> None:
        """Create the two projections."""
        super().__init__()
        self.left = nn.Linear(embed_dim, rank)
        self.right = nn.Linear(embed_dim, rank)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        """Multiply."""
        return self.left(a) * self.right(b)


class Embedding(nn.Module):
    """`Dropout(ReLU(W x + b))`."""

    def __init__(self, encoder_width: int, embed_dim: int, dropout: float) -> None:
        """Create the projection."""
        super().__init__()
        self.project = nn.Linear(encoder_width, embed_dim)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Embed features (..., E) to (..., D)."""
        return self.dropout(self.project(x.to(self.project.weight.dtype)).relu_())


class _Weights(NamedTuple):
    """Weight (B * N10,) of each 10x token in the means, by what their terms need."""

    fine: Tensor
    coarse: Tensor
    fine_coarse: Tensor

    @classmethod
    def of(cls, families: Families, like: Tensor) -> _Weights:
        fine = families.children10.to(like.dtype)
        coarse = (families.parent10 >= 0).to(like.dtype)
        return cls(fine, coarse, fine * coarse)


def _dot(a: Tensor, b: Tensor) -> Tensor:
    """Return the products (N,) of the rows of a and b (N, D), without their elementwise product."""
    return torch.bmm(a[:, None], b[:, :, None]).flatten()


def selected(rows: Tensor, index: Tensor) -> Tensor:
    """Return rows (N, D) by index; 0 where the index is -1."""
    found = index >= 0
    return rows.index_select(0, index.clamp(min=0)) * found[:, None]


def weighted_mean(terms: Tensor, weights: Tensor, slides: int) -> Tensor:
    """Return the weighted mean (B, C) of terms (B * N, C); 0 for a slide whose weights are all 0."""
    weights = weights.view(slides, 1, -1)  # (B, 1, N)
    total = weights.sum(dim=2).clamp(min=1)  # a weight is 0 or at least 1
    return (weights @ terms.view(slides, -1, terms.shape[1]))[:, 0] / total
