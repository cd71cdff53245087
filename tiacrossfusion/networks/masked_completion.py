"""The neural way of masked cross-modality learning: each side is rebuilt from its rest and the other side.

Our reading of Cross-Modality Masked Learning (Xing et al., MICCAI 2025, arXiv 2507.06994), whose code and
sizes are not published. A slide is a few summary tokens: the mean features of the tokens next to each of K
prototypes, at each scale. A record is a token for each variable.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from tiacrossfusion.survival.record import Record

#: Width D, heads of attention, dropout.
WIDTH, HEADS, DROPOUT = 32, 2, 0.1


class MaskedCompletion(nn.Module):
    """Rebuilds masked variables of a record, and masked summary tokens of a slide.

    Args:
        record: its variables.
        scales: S scales that are read, such as "20x".
        encoder_width: E.
        prototypes: K of each scale.
        cross: each side is shown the other one; without it, its own rest alone (the ablation).
    """

    means: Tensor
    sds: Tensor
    prototypes: Tensor
    direction: Tensor
    moments: Tensor

    def __init__(
        self,
        record: Record,
        scales: Sequence[str],
        encoder_width: int,
        prototypes: int,
        *,
        cross: bool = True,
    ) -> None:
        """Make fresh weights."""
        super().__init__()
        self.record, self.scales, self.count, self.cross = record, tuple(scales), prototypes, cross
        variables, terms = len(record.variables), record.num_terms
        places = len(self.scales) * prototypes
        self.register_buffer("means", torch.zeros(len(self.scales), encoder_width))
        self.register_buffer("sds", torch.ones(len(self.scales), encoder_width))
        self.register_buffer("prototypes", torch.zeros(len(self.scales), prototypes, encoder_width))
        self.register_buffer("direction", torch.zeros(terms if cross else WIDTH))
        self.register_buffer("moments", torch.tensor([0.0, 1.0]))
        self.vectors = nn.Parameter(torch.randn(terms, WIDTH) * 0.1)
        self.offsets = nn.Parameter(torch.randn(variables, WIDTH) * 0.1)
        self.masked_variables = nn.Parameter(torch.randn(variables, WIDTH) * 0.1)
        self.embed = nn.Linear(encoder_width, WIDTH)
        self.places = nn.Parameter(torch.randn(places, WIDTH) * 0.1)
        self.masked_places = nn.Parameter(torch.randn(places, WIDTH) * 0.1)
        self.attend = nn.MultiheadAttention(WIDTH, HEADS, dropout=DROPOUT, batch_first=True)
        self.norm = nn.LayerNorm(WIDTH)
        self.mix = nn.Sequential(
            nn.Linear(WIDTH, 2 * WIDTH), nn.GELU(), nn.Dropout(DROPOUT), nn.Linear(2 * WIDTH, WIDTH)
        )
        self.to_terms = nn.Parameter(torch.randn(terms, WIDTH) * 0.1)
        self.to_features = nn.Linear(WIDTH, encoder_width)

    def summary(self, features: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
        """Return summary tokens (B, S K, E) and which of them any token is next to (B, S K).

        Args:
            features: (B, N, E) raw features by scale.
        """
        tokens, present = [], []
        for row, scale in enumerate(self.scales):
            x = (features[scale].to(self.means.dtype) - self.means[row]) / self.sds[row]
            next_to = torch.cdist(x, self.prototypes[row].expand(len(x), -1, -1)).argmin(dim=2)
            one_hot = nn.functional.one_hot(next_to, self.count).to(x.dtype)  # (B, N, K)
            counts = one_hot.sum(dim=1)
            sums = one_hot.transpose(1, 2) @ x
            tokens.append(sums / counts.clamp(min=1)[:, :, None])
            present.append(counts > 0)
        return torch.cat(tokens, dim=1), torch.cat(present, dim=1)

    def rebuilt_record(self, z: Tensor, visible: Tensor, tokens: Tensor, present: Tensor) -> Tensor:
        """Return the terms (B, P) of all variables, rebuilt from the visible ones and the slide.

        Args:
            z: (B, P) terms of the record.
            visible: (B, V) variables that are shown.
            tokens: (B, S K, E) of the slide.
            present: (B, S K) tokens that are there.
        """
        shown = self._record_tokens(z)
        hidden = ~visible
        if self.cross:
            shown = torch.cat([shown, self.embed(tokens) + self.places], dim=1)
            hidden = torch.cat([hidden, ~present], dim=1)
        made = self._completed(self.masked_variables.expand(len(z), -1, -1), shown, hidden)
        place = torch.as_tensor(self.record.places()[0], device=z.device)
        return (made[:, place] * self.to_terms).sum(dim=2)

    def rebuilt_slide(self, z: Tensor, known: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the summary tokens (B, S K, E), rebuilt from the visible ones and the record."""
        return self.to_features(self._slide_states(z, known, tokens, visible))

    def _slide_states(self, z: Tensor, known: Tensor, tokens: Tensor, visible: Tensor) -> Tensor:
        """Return the states (B, S K, D) from which summary tokens are rebuilt."""
        shown, hidden = self.embed(tokens) + self.places, ~visible
        if self.cross:
            shown = torch.cat([shown, self._record_tokens(z)], dim=1)
            hidden = torch.cat([hidden, ~known], dim=1)
        return self._completed(self.masked_places.expand(len(z), -1, -1), shown, hidden)

    def of_slide(self, tokens: Tensor, present: Tensor) -> Tensor:
        """Return what slides alone tell: their rebuilt record (B, P), or without `cross` states (B, D)."""
        z = tokens.new_zeros(len(tokens), self.record.num_terms)
        nothing = torch.zeros(
            len(tokens), len(self.record.variables), dtype=torch.bool, device=tokens.device
        )
        if self.cross:
            return self.rebuilt_record(z, nothing, tokens, present)
        states = self._slide_states(z, nothing, tokens, present)
        weight = present.to(states.dtype)[:, :, None]
        return (states * weight).sum(dim=1) / weight.sum(dim=1).clamp(min=1)

    def forward(self, features: Mapping[str, Tensor]) -> Tensor:
        """Return the summary (B,) of slides: `of_slide` along its first component, standardised."""
        made = self.of_slide(*self.summary(features))
        return (made @ self.direction - self.moments[0]) / self.moments[1]

    def _record_tokens(self, z: Tensor) -> Tensor:
        place = torch.as_tensor(self.record.places()[0], device=z.device)
        parts = z[:, :, None] * self.vectors
        return self.offsets.expand(len(z), -1, -1).index_add(1, place, parts)

    def _completed(self, queries: Tensor, shown: Tensor, hidden: Tensor) -> Tensor:
        """Let queries (B, Q, D) attend to what is shown (B, T, D), to zeros where nothing is."""
        nothing = hidden.all(dim=1, keepdim=True)
        shown = shown.masked_fill(nothing[:, :, None], 0.0)
        attended, _ = self.attend(
            queries, shown, shown, key_padding_mask=hidden & ~nothing, need_weights=False
        )
        y = self.norm(queries + attended)
        return y + self.mix(y)
