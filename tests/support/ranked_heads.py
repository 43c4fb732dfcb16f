"""All label heads with chosen logits, for comparison with a brute-force ranking."""

from dataclasses import dataclass

import numpy as np
import torch
from hypothesis import strategies as st

from cxml.accelerators import device_of
from cxml.config import HeadConfig, OptimConfig
from cxml.model import EngineHead, Leaves
from cxml.parallel import Exchange, RowLayout, distributed
from cxml.prediction.packed_rows import PackedRows, prediction_head
from support.heads import level_of
from support.rankings import check_ranking, joint

SURE = [17.5, 25.0, 19.0, 40.0, 100.0, 200.0, 800.0, 1e4]
LOGITS = st.one_of(
    st.sampled_from(SURE + [-x for x in SURE] + [0.0, -0.0, 5.0]),
    st.integers(-10_000, 10_000).map(float),
    st.floats(-1e4, 1e4, width=32),
)


@dataclass
class Problem:
    """Labels in leaves of uneven sizes, all logits, and the leaves that each text wants.

    Attributes:
        offsets: int64 [leaves + 1].
        own: float32 [B, labels].
        nodes: int64 [B, K], -1 for none; of_leaves: float32 [B, K].
    """

    offsets: np.ndarray
    own: np.ndarray
    nodes: np.ndarray
    of_leaves: np.ndarray

    def leaves(self, device="cpu"):
        nodes = torch.from_numpy(self.nodes).to(device)
        return Leaves(nodes.clamp(min=0), nodes >= 0, torch.from_numpy(self.of_leaves).to(device))

    def check(self, positions, logits, k, *, weighted, scores_all=False):
        """Check the ranking that a head found for every text."""
        for text in range(len(self.own)):
            candidates, parents = [], []
            for node, parent in zip(self.nodes[text], self.of_leaves[text], strict=True):
                if node >= 0:
                    labels = range(self.offsets[node], self.offsets[node + 1])
                    candidates += labels
                    parents += [parent] * len(labels)
            if scores_all:
                candidates, parents = list(range(self.own.shape[1])), [np.inf] * self.own.shape[1]
            own = self.own[text, candidates].astype(np.float64)
            scores = joint(own, parents) if weighted and not scores_all else own
            place = {label: i for i, label in enumerate(candidates)} | {-1: -1}
            found = [place[int(label)] for label in positions[text]]
            check_ranking(found, logits[text], scores, own, k)


@st.composite
def problems(draw, num_texts=2):
    """Leaves of 1 to 5 labels, mostly 1, and logits from -10,000 to 10,000 with ties."""
    sizes = draw(st.lists(st.sampled_from([1, 1, 1, 2, 3, 5]), min_size=1, max_size=6))
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    pool = draw(st.lists(LOGITS, min_size=1, max_size=12))
    seed = draw(st.integers(0, 10**6))
    return drawn_problem(np.random.default_rng(seed), offsets, pool, num_texts)


def drawn_problem(rng, offsets, pool, num_texts):
    num_leaves = len(offsets) - 1
    nodes = np.stack([rng.permutation(num_leaves) for _ in range(num_texts)])
    nodes[:, 1:][rng.random((num_texts, num_leaves - 1)) < 0.3] = -1
    own, of_leaves = (
        rng.choice(np.array(pool, np.float32), size=(num_texts, size)) for size in (int(offsets[-1]), num_leaves)
    )
    return Problem(offsets, own, nodes.astype(np.int64), of_leaves)


def engine(problem):
    num_texts, num_labels = problem.own.shape
    head = EngineHead(torch.from_numpy(problem.offsets), num_labels, num_texts, block_rows=4)
    head.import_rows(torch.arange(num_labels), torch.from_numpy(problem.own.T.copy()), torch.zeros(num_labels))
    return head


def rows(problem, kind="cpu", weights="fp32", exchange=None, candidates="shortlist"):
    """A head of rows. The features of text b are the b-th unit vector, so the logits are exact."""
    exchange = exchange or Exchange(is_alone=True)
    num_texts, num_labels = problem.own.shape
    layout = RowLayout.round_robin(problem.offsets, exchange.rank, exchange.size)
    config = HeadConfig(weights=weights, candidates=candidates)
    head = level_of(kind, layout, num_texts, exchange, config, OptimConfig(), trains=False)
    head.import_rows(torch.arange(num_labels), torch.from_numpy(problem.own.T.copy()), torch.zeros(num_labels))
    return head


def packed(problem, form, *, scores_all=False):
    """Rows of an export. The logits are biases, which are not rounded; every text gets the logits of the first."""
    num_texts, num_labels = problem.own.shape
    problem.own[:] = problem.own[:1]
    plain = PackedRows(np.zeros((num_labels, num_texts), np.float32), np.zeros(0, np.float32), problem.own[0].copy())
    layout = RowLayout.round_robin(problem.offsets, 0, 1)
    return prediction_head(plain.to(form), layout, Exchange(is_alone=True), scores_all=scores_all)


HEADS = {
    "engine": engine,
    "rows": rows,
    "plain": lambda problem: rows(problem, "torch"),
    "kernels": lambda problem: rows(problem, "triton"),
    "all labels": lambda problem: rows(problem, candidates="all"),
    "all labels, plain": lambda problem: rows(problem, "torch", candidates="all"),
    "all labels, kernels": lambda problem: rows(problem, "triton", candidates="all"),
    "fp32 export": lambda problem: packed(problem, "fp32"),
    "bf16 export": lambda problem: packed(problem, "bf16"),
    "fp8 export": lambda problem: packed(problem, "fp8"),
    "fp8 export, all labels": lambda problem: packed(problem, "fp8", scores_all=True),
    "int8 export": lambda problem: packed(problem, "int8"),
    "int8 export, all labels": lambda problem: packed(problem, "int8", scores_all=True),
}


def predict(head, problem, k, *, weighted):
    """Positions and logits, as numpy arrays."""
    device = device_of(0) if getattr(head, "on_device", False) else "cpu"
    features = torch.eye(len(problem.own), device=device)
    with torch.inference_mode():
        found = head.predict(features, problem.leaves(device), k, weighted=weighted)
    return [part.cpu().numpy() for part in found]


def predict_on_ranks(cases):
    """Positions and logits that each rank finds for each case (problem, k, weighted, all labels) on sharded rows."""
    with distributed(threads=1) as ranks:
        gathered = []
        for problem, k, weighted, scores_all in cases:
            head = rows(problem, exchange=Exchange(), candidates="all" if scores_all else "shortlist")
            own = slice(ranks.rank, None, ranks.world_size)
            features = torch.eye(len(problem.own))[own]
            leaves = problem.leaves()
            leaves = Leaves(leaves.nodes[own], leaves.mask[own], leaves.logits[own])
            found = [part.numpy() for part in head.predict(features, leaves, k, weighted=weighted)]
            parts = [None] * ranks.world_size
            torch.distributed.all_gather_object(parts, found)
            gathered.append(parts)
        return gathered
