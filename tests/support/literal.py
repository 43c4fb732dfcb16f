"""The paper's algorithm, one text and one node at a time: the oracle for the vectorised model."""

from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F

from support.rankings import joint


@dataclass
class LiteralResult:
    loss: torch.Tensor  # summed over texts, weighted over levels
    level_losses: list[float]
    scored: list[list[dict[int, torch.Tensor]]]  # [level][text]: node -> logit


def children(tree, level, node):
    offsets = tree.offsets[level]
    return list(range(int(offsets[node]), int(offsets[node + 1])))


def true_nodes(tree, label_ids):
    """For each level, the nodes above a true label; at the last level, the positions of the true labels."""
    positions = {int(np.flatnonzero(tree.label_order == label)[0]) for label in label_ids}
    levels = [positions]
    for level in reversed(range(len(tree.offsets))):
        num_nodes = len(tree.offsets[level]) - 1
        levels.insert(0, {n for n in range(num_nodes) if set(children(tree, level, n)) & levels[0]})
    return levels


def select_nodes(logits, k, true):
    """The true nodes, then the best other nodes up to k in all."""
    chosen = [node for node in logits if node in true]
    others = sorted((node for node in logits if node not in true), key=lambda node: -logits[node].item())
    return chosen + others[: max(0, k - len(chosen))]


def literal_forward(tree, features, heads, shortlist_sizes, level_weights, label_lists, teacher_forcing=True):
    """Train a step. features: [B, D] per level; heads: (weight, bias) per level; label_lists: true ids per text."""
    num_levels = len(tree.level_sizes)
    scored = [[] for _ in range(num_levels)]
    losses = [torch.zeros(()) for _ in range(num_levels)]
    for text, labels in enumerate(label_lists):
        truth = true_nodes(tree, labels)
        shortlist = list(range(tree.level_sizes[0]))
        for level in range(num_levels):
            weight, bias = heads[level]
            logits = {node: weight[node] @ features[level][text] + bias[node] for node in shortlist}
            scored[level].append(logits)
            terms = [
                F.binary_cross_entropy_with_logits(logit, torch.tensor(float(node in truth[level])))
                for node, logit in logits.items()
            ]
            losses[level] = losses[level] + sum(terms) / len(terms)
            if level < num_levels - 1:
                chosen = select_nodes(logits, shortlist_sizes[level], truth[level] if teacher_forcing else set())
                shortlist = [child for node in chosen for child in children(tree, level, node)]
    loss = sum(weight * level_loss for weight, level_loss in zip(level_weights, losses, strict=True))
    return LiteralResult(loss, [level_loss.item() for level_loss in losses], scored)


def literal_predict(tree, features, heads, shortlist_sizes, scoring, text):
    """For each level, {node: (log odds of its score, own logit)} of one text's shortlist; the last level: label ids."""
    shortlist, parent_of, above, result = list(range(tree.level_sizes[0])), {}, {}, []
    for level in range(len(tree.level_sizes)):
        weight, bias = heads[level]
        logits = {node: weight[node] @ features[level][text] + bias[node] for node in shortlist}
        own = {node: logit.item() for node, logit in logits.items()}
        weighted = scoring == "weighted" and level > 0
        scores = {
            node: (float(joint(logit, above[parent_of[node]])) if weighted else logit, logit)
            for node, logit in own.items()
        }
        is_last = level == len(tree.level_sizes) - 1
        result.append({int(tree.label_order[n]) if is_last else n: s for n, s in scores.items()})
        if not is_last:
            chosen = select_nodes(logits, shortlist_sizes[level], set())
            parent_of = {child: node for node in chosen for child in children(tree, level, node)}
            shortlist, above = list(parent_of), own
    return result
