"""The heads that turn a slide score and a clinical record into a log-hazard."""

from __future__ import annotations

from typing import Final, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from tiacrossfusion.survival.fusion import Completion
from tiacrossfusion.survival.record import Record

HeadKind = Literal["linear", "mlp", "tokens"]

#: States of the record.
WHOLE, PARTIAL, NONE = "whole", "partial", "none"
STATES: Final = (WHOLE, PARTIAL, NONE)

#: Width of the small networks, and their dropout in training.
WIDTH, DROPOUT = 32, 0.2

_LARGEST_TERM = 4.0


class RecordHead(nn.Module):
    """The log-hazard of a slide score and a record: `eta = w^T z + alpha r + beta q r`, or a small network.

    With pretrained summaries of slide and record (`cross_modality`), `w_s^T s` is added.

    q is the score of the record alone, as `(w_q^T z - centre) / scale`. Coefficients are found in closed
    form, except for those of the small networks.

    Args:
        record: its variables.
        num_bins: K.
        kind: "linear"; "mlp", a layer of 32 on [z, r]; "tokens", a transformer on a token for each variable
            and one for the slide.
        pretrained: there are summaries.
    """

    centre: Tensor
    scale: Tensor
    w: Tensor
    w_s: Tensor
    component: Tensor
    component_centre: Tensor
    component_scale: Tensor
    alpha: Tensor
    beta: Tensor
    w_q: Tensor
    q_moments: Tensor
    mean: Tensor
    covariance: Tensor
    alpha_alone: Tensor

    def __init__(
        self, record: Record, num_bins: int, kind: HeadKind, *, pretrained: bool = False
    ) -> None:
        """Make a head of zeros."""
        super().__init__()
        self.record, self.pretrained = record, pretrained
        terms = record.num_terms
        for name in ("centre", "scale", "w", "w_q"):
            self.register_buffer(name, torch.zeros(terms))
        for name in ("alpha", "beta", "alpha_alone"):
            self.register_buffer(name, torch.zeros(()))
        self.register_buffer("q_moments", torch.tensor([0.0, 1.0]))
        self.register_buffer("mean", torch.zeros(terms + 1))
        self.register_buffer("covariance", torch.eye(terms + 1))
        for state in STATES:
            self.register_buffer(f"increments_{state}", torch.zeros(num_bins))
        if pretrained:
            self.register_buffer("w_s", torch.zeros(2))
            for name in ("component", "component_centre", "component_scale"):
                self.register_buffer(name, torch.zeros(terms))
        self.small: nn.Module | None = None
        if kind == "mlp":
            self.small = MLP(terms)
        elif kind == "tokens":
            self.small = TokenTransformer(record)

    def increments(self, state: str) -> Tensor:
        """Return the baseline hazard (K,) of a state of the record."""
        return self.get_buffer(f"increments_{state}")

    def terms(self, codes: Tensor) -> Tensor:
        """Return the terms (B, P) of codes (B, V), NaN where missing; as `RecordTerms.encode`."""
        return self._encoded(codes, self.centre, self.scale)

    def _encoded(self, codes: Tensor, centre: Tensor, scale: Tensor) -> Tensor:
        place, kind, level = (
            torch.as_tensor(part, device=codes.device) for part in self.record.places()
        )
        values = codes[:, place]
        missing = values.isnan()
        values = values.nan_to_num(0.0)
        number = torch.where(kind == 1, values.clamp(min=0).log1p(), values)
        used = scale > 0
        number = (number - centre) / torch.where(used, scale, 1.0)
        number = number.clamp(-_LARGEST_TERM, _LARGEST_TERM)
        terms = torch.where(kind == 2, (values == level).to(number) - centre, number)
        terms = terms.masked_fill(missing, 0.0)
        terms = torch.where(kind == 3, missing.to(number) - centre, terms)
        return torch.where(used, terms, 0.0)

    def completed(self, codes: Tensor, score: Tensor) -> Tensor:
        """Return the terms (B, P) of partial records, missing ones from the others; as `fusion.complete`."""
        completion = Completion(
            self.mean.double().cpu().numpy(), self.covariance.double().cpu().numpy()
        )
        place, kind, _ = self.record.places()
        missing = codes.isnan().cpu().numpy()[:, place]
        z = self.terms(codes).double().cpu().numpy()
        made = completion.complete(z, missing, kind, score.detach().double().cpu().numpy())
        return torch.from_numpy(made).to(score)

    def summary(self, codes: Tensor, typical: Tensor | None = None) -> Tensor:
        """Return the pretrained summary (B,) of records (B, V); `typical` (B, V) is that of `logits`."""
        z = self._encoded(codes, self.component_centre, self.component_scale)
        if typical is not None:
            z = z.masked_fill(typical[:, torch.as_tensor(self.record.places()[0])], 0.0)
        return z @ self.component

    def forward(self, z: Tensor, score: Tensor, shared: Tensor | None = None) -> Tensor:
        """Return the log-hazards (B,) of terms (B, P), slide scores (B,) and shared summaries (B, 2)."""
        q = (z @ self.w_q - self.q_moments[0]) / self.q_moments[1]
        eta = z @ self.w + self.alpha * score + self.beta * q * score
        if shared is not None:
            eta = eta + shared @ self.w_s
        return eta if self.small is None else eta + self.small(z, score)


class MLP(nn.Module):
    """A layer of 32 on the terms of the record and the slide score; its slope is set after training."""

    slope: Tensor

    def __init__(self, terms: int) -> None:
        """Make fresh weights."""
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(terms + 1, WIDTH), nn.ReLU(), nn.Dropout(DROPOUT), nn.Linear(WIDTH, 1)
        )
        self.register_buffer("slope", torch.ones(()))

    def forward(self, z: Tensor, score: Tensor) -> Tensor:
        """Return log-hazards (B,) of terms (B, P) and slide scores (B,)."""
        return self.slope * self.layers(torch.cat([z, score[:, None]], dim=1))[:, 0]


class TokenTransformer(nn.Module):
    """A layer of attention between tokens, one for each variable and the slide, with a bias for each pair.

    A variable's token is the sum of a learned vector and of its terms times learned vectors, so that a
    missing value has a token of its own. The learned bias of each pair of variables, added to the attention
    of all patients, is the weighted graph of variables of Cross-Modality Masked Learning (MICCAI 2025).
    """

    slope: Tensor

    def __init__(self, record: Record, heads: int = 2) -> None:
        """Make fresh weights."""
        super().__init__()
        self.record, self.heads = record, heads
        count = len(record.variables) + 1
        self.vectors = nn.Parameter(torch.empty(record.num_terms + 1, WIDTH))
        self.offsets = nn.Parameter(torch.empty(count, WIDTH))
        self.bias = nn.Parameter(torch.empty(count, count))
        self.reset_parameters()
        self.attend = nn.Linear(WIDTH, 3 * WIDTH)
        self.norm = nn.LayerNorm(WIDTH)
        self.dropout = nn.Dropout(DROPOUT)
        self.out = nn.Linear(WIDTH, 1)
        self.register_buffer("slope", torch.ones(()))

    def reset_parameters(self) -> None:
        """Draw the vectors anew; pairs have no bias."""
        nn.init.normal_(self.vectors, std=0.1)
        nn.init.normal_(self.offsets, std=0.1)
        nn.init.zeros_(self.bias)

    def forward(self, z: Tensor, score: Tensor) -> Tensor:
        """Return log-hazards (B,) of terms (B, P) and slide scores (B,)."""
        place = torch.as_tensor(self.record.places()[0], device=z.device)
        values = torch.cat([z, score[:, None]], dim=1)  # (B, P + 1)
        owner = torch.cat([place, place.new_tensor([len(self.record.variables)])])
        parts = values[:, :, None] * self.vectors  # (B, P + 1, D)
        tokens = self.offsets.expand(len(z), -1, -1).index_add(1, owner, parts)  # (B, V + 1, D)
        q, k, v = self.attend(self.norm(tokens)).chunk(3, dim=2)
        q, k, v = (x.unflatten(2, (self.heads, -1)).transpose(1, 2) for x in (q, k, v))
        mixed = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.bias)
        tokens = tokens + self.dropout(mixed.transpose(1, 2).flatten(2))
        return self.slope * self.out(tokens.mean(dim=1))[:, 0]
