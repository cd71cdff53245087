"""DSMIL: the critical token, and attention to the tokens that are similar to it."""

from __future__ import annotations

from dataclasses import replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from tiacrossfusion.networks.output import SurvivalOutput
from tiacrossfusion.networks.recipe import SEARCHED, Recipe
from tiacrossfusion.networks.token_embedding import BagNetwork, FineOnly

# d, width of the queries.
_QUERY = 128


class DSMIL(BagNetwork):
    """Dual-stream multiple-instance learning, with one critical token for each time bin.

    The paper classifies bags; here each of the K hazards takes the place of a class. With h_n the embedded
    tokens (see `TokenEmbedding`), for each bin k::

        instance stream:    c_nk = (W_0 h_n)_k,  m_k = argmax_n c_nk
        aggregator stream:  q_n = W_q h_n,  v_n = W_v h_n
                            u_nk = softmax_n(<q_n, q_{m_k}> / sqrt(d)),  b_k = sum_n u_nk v_n
        logit_k = (c_{m_k k} + (W_b concat_j(b_j))_k) / 2

    So each bin has a critical token, the one with the highest logit for it, and attention to tokens similar
    to that one, while the bag embeddings of all bins contribute to each logit, as those of all classes do
    in the paper. The square root is not in the paper's equations; it keeps the softmax from saturating at
    the start. Scores are u_nk averaged over the bins.

    Source: Li, Li and Eliceiri, "Dual-stream Multiple Instance Learning Network for Whole Slide Image
    Classification with Self-supervised Contrastive Learning", CVPR 2021, section 3.2.
    """

    recipe: ClassVar[Recipe] = replace(SEARCHED, loss="nll", input_weight_decay=5.0)

    def _add_layers(self, embed_dim: int, num_bins: int, dropout: float) -> None:
        self.instance = nn.Linear(embed_dim, num_bins)  # W_0
        self.query = nn.Linear(embed_dim, _QUERY)  # W_q
        self.value = nn.Linear(embed_dim, embed_dim)  # W_v
        self.dropout = nn.Dropout(dropout)
        self.head = nn.Linear(num_bins * embed_dim, num_bins)  # W_b

    def predict(self, scales: list[Tensor], *, attention: bool) -> SurvivalOutput:
        """Predict survival from embedded tokens (B, N, D) of each scale, from coarse to fine."""
        tokens = torch.cat(scales, dim=1)  # (B, N, D)

        most, critical = self.instance(tokens).max(dim=1)  # (B, K), (B, K)

        query = self.query(tokens)  # (B, N, d)
        chosen = query.gather(1, critical[..., None].expand(-1, -1, _QUERY))  # (B, K, d)
        weights = torch.softmax(chosen @ query.transpose(1, 2) * _QUERY**-0.5, dim=2)  # (B, K, N)
        value = self.dropout(self.value(tokens))  # (B, N, D)
        pooled = weights.to(value.dtype) @ value  # (B, K, D)
        logits = (most + self.head(pooled.flatten(1))) / 2  # (B, K)

        scores = self.scores(weights.mean(dim=1), scales) if attention else None
        return SurvivalOutput.from_logits(logits, scores)


class DSMIL20x(FineOnly, DSMIL):
    """DSMIL on the 20x tokens alone."""
