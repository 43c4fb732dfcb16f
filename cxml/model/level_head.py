"""The classifier of one level: a weight row and a bias per node."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

# Few nodes are true for a text, so training starts from a small probability instead of one half.
_INITIAL_BIAS = -4.0
_INITIAL_STD = 0.02


class LevelHead(nn.Module):
    """Scores nodes of one level: `logit = W[node] . feature + b[node]` with `W` [n, D] and `b` [n]."""

    def __init__(self, num_nodes: int, hidden_size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(num_nodes, hidden_size).normal_(std=_INITIAL_STD))
        self.bias = nn.Parameter(torch.full((num_nodes,), _INITIAL_BIAS))

    def forward(self, features_BD: Tensor, nodes_BC: Tensor | None) -> Tensor:
        """Logits [B, C] of the shortlisted nodes, or [B, n] of all nodes if `nodes_BC` is None."""
        if nodes_BC is None:
            return F.linear(features_BD, self.weight, self.bias)
        if scores_whole_level(len(self.weight), nodes_BC):
            return F.linear(features_BD, self.weight, self.bias).gather(1, nodes_BC)
        rows_BCD = F.embedding(nodes_BC, self.weight)
        products_BC = torch.bmm(rows_BCD, features_BD.unsqueeze(-1)).squeeze(-1)
        return products_BC + self.bias[nodes_BC]


def scores_whole_level(num_nodes: int, nodes_BC: Tensor) -> bool:
    """Whether a level is scored faster on all of its nodes than on those of the texts.

    One matrix product over all rows moves less memory than a copy of one row per text and node: measured, up to about
    as many rows as pairs (a tenth of the time at 4,096 nodes, 64 texts and 512 nodes each).
    """
    return num_nodes <= nodes_BC.numel()
