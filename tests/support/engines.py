"""Trains a small model in several engines, DeepSpeed among them, on the same numbers."""

from dataclasses import dataclass, field

import torch
from torch import nn

TEXTS, WIDTH, STEPS = 24, 12, 6


@dataclass(frozen=True)
class Job:
    """One training.

    Attributes:
        train: fields of `TrainConfig`.
        bucket_elements: elements of a gradient bucket of the plain engine; None keeps the default.
        is_reference: whether DeepSpeed's engine without ZeRO trains the model.
        unsound: steps that are marked as not counting.
        skips_nothing: whether every micro-batch goes through every layer.
    """

    train: dict = field(default_factory=dict)
    bucket_elements: int | None = None
    is_reference: bool = False
    unsound: tuple[int, ...] = ()
    skips_nothing: bool = False


class Model(nn.Module):
    """Layers for every text, a layer for some of the micro-batches, and a weight that is never used."""

    def __init__(self):
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(WIDTH, 2 * WIDTH), nn.Tanh(), nn.Linear(2 * WIDTH, WIDTH))
        self.sometimes = nn.Linear(WIDTH, WIDTH)
        self.unused = nn.Parameter(torch.ones(3, 2))
        self.heads = nn.ModuleList(nn.Linear(WIDTH, size) for size in (5, 9))

    def forward(self, x, *, with_more):
        x = self.encoder(x)
        if with_more:
            x = x + self.sometimes(x).sin()
        return sum(head(x).float().square().mean(1).sum() for head in self.heads)


def train_in_engines(jobs):
    """Train each job in one process group. Returns its weights as fp32 arrays, and whether all ranks have the same."""
    from cxml.parallel import distributed

    with distributed(threads=1) as ranks:
        return [_train(job, ranks) for job in jobs]


def _train(job, ranks):
    from cxml.config import OptimConfig, TrainConfig
    from cxml.parallel import build_engine, gathered_state_dict, gradient_buckets, take_step

    train = TrainConfig(batch_size=TEXTS, **job.train)
    optim = OptimConfig(encoder_lr=0.01, classifier_lr=0.02, encoder_weight_decay=0.3)
    size = gradient_buckets.BUCKET_ELEMENTS
    gradient_buckets.BUCKET_ELEMENTS = job.bucket_elements or size
    torch.manual_seed(0)
    model = Model()
    engine = _reference(model, train, optim, ranks) if job.is_reference else build_engine(model, train, optim, ranks)
    gradient_buckets.BUCKET_ELEMENTS = size
    generator = torch.Generator().manual_seed(1)
    for step in range(STEPS):
        parts = torch.randn(TEXTS, WIDTH, generator=generator).chunk(train.accumulation * ranks.world_size)
        own = parts[ranks.rank :: ranks.world_size]
        for number, texts in enumerate(own):
            dtype = torch.bfloat16 if train.precision == "bf16" else torch.float32
            loss = engine(texts.to(dtype), with_more=job.skips_nothing or number % 2 == step % 2)
            divided_by = len(own) * ranks.world_size if job.is_reference else engine.averages_over
            engine.backward(loss * (divided_by / TEXTS))
            if job.is_reference:
                engine.step()
            else:
                is_last = number == len(own) - 1
                take_step(engine, torch.tensor(step not in job.unsound) if is_last else None)
    weights = gathered_state_dict(engine, ranks)
    return {name: tensor.float().numpy() for name, tensor in weights.items()}, _are_alike(engine, ranks)


def _reference(model, train, optim, ranks):
    import deepspeed

    from cxml.internals.deepspeed import without_extensions
    from cxml.optim import parameter_groups

    without_extensions()
    optimizer = torch.optim.AdamW(
        parameter_groups(model, optim), betas=(optim.beta1_high, optim.beta2), eps=optim.epsilon, fused=True
    )
    config = {
        "train_micro_batch_size_per_gpu": TEXTS // (ranks.world_size * train.accumulation),
        "gradient_accumulation_steps": train.accumulation,
        "gradient_clipping": train.gradient_clipping,
        "bf16": {"enabled": train.precision == "bf16"},
    }
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=config, dist_init_required=False)
    engine.enable_backward_allreduce = ranks.world_size > 1
    return engine


def _are_alike(engine, ranks):
    """Whether all ranks have the same weights. True under ZeRO 3, where no rank has all of them."""
    if engine.zero_optimization_stage() == 3:
        return True
    own = torch.cat([parameter.detach().float().view(-1) for parameter in engine.module.parameters()])
    everyone = [torch.empty_like(own) for _ in range(ranks.world_size)]
    torch.distributed.all_gather(everyone, own)
    return all(torch.equal(own, each) for each in everyone)
