"""The sections `optim` and `train`: learning rates, the training loop, its processes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from cxml.config.fields import PrecisionChoice, require, require_at_least, require_fraction, require_group, setting

_NUMBER = r"([0-9]+(?:\.[0-9]+)?)"
_DURATION = re.compile(f"(?:{_NUMBER}h)?(?:{_NUMBER}m)?(?:{_NUMBER}s)?", re.ASCII)


@dataclass(frozen=True, kw_only=True)
class OptimConfig:
    """AdamW and the three-phase one-cycle schedule of the paper."""

    encoder_lr: float = setting(1e-4, choosable=True)
    """Peak learning rate of the encoder and of the projections of joined layers."""
    classifier_lr: float = setting(1e-3, choosable=True)
    """Peak learning rate of the classifiers and of the bottleneck. The paper uses ten times the encoder's rate."""
    encoder_weight_decay: float = 0.05
    """Decoupled weight decay of the encoder. Biases and normalisation layers have none."""
    classifier_weight_decay: float = 0.005
    """Decoupled weight decay of the classifiers and of the bottleneck. The paper uses a tenth of the encoder's."""
    beta1_high: float = 0.95
    """AdamW's beta1 at the start and at the end of the cycle, in [0, 1)."""
    beta1_low: float = 0.85
    """AdamW's beta1 while the learning rate is at its peak, in [0, 1)."""
    beta2: float = 0.999
    """AdamW's beta2, in [0, 1)."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    warmup_epochs: float = setting(1.0, choosable=True)
    """Number of epochs in which the rate rises from lr/10 to lr along a cosine."""
    decay_epochs: float = setting(3.0, choosable=True)
    """Number of epochs at the end in which the rate falls from lr to lr/1000 along a cosine."""

    def __post_init__(self) -> None:
        for name in ("encoder_lr", "classifier_lr", "epsilon"):
            value = getattr(self, name)
            require(value > 0, f"optim.{name}", value, "must be above 0", "Start from the default.")
        for name in ("encoder_weight_decay", "classifier_weight_decay", "warmup_epochs", "decay_epochs"):
            require_at_least(f"optim.{name}", getattr(self, name), 0)
        for name in ("beta1_high", "beta1_low", "beta2"):
            require_fraction(f"optim.{name}", getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The training loop, and its distribution over processes."""

    epochs: int = setting(10, choosable=True)
    """Number of passes over the train texts."""
    steps: int = setting(0, since_files=True)
    """Maximum number of optimiser steps. Training ends there, also within an epoch, unless `epochs` end earlier. 0: no
    limit."""
    budget: str = setting("", since_files=True)
    """Time for the whole run, from raw data to report, such as 30m, 1h30m or 90s. The run times a few steps on this
    machine and plans as many steps as fit, at most those of `epochs`, with a schedule of that length. It adjusts the
    number when the speed changes (docs/decisions/0029). Not with `keep: refit`. Empty: no limit."""
    batch_size: int = setting(64, choosable=True)
    """Number of texts per optimiser step, over all processes and micro-batches together."""
    batch_tokens: int = setting(0, since_files=True)
    """Maximum number of tokens per optimiser step, including padding, over all processes and micro-batches together.
    Each step takes as many texts of similar length as fit, and batch_size and bucket_by_length have no effect. A text
    with more tokens has its own step. The loss is the mean over the texts of a step, so texts in small steps weigh
    more. 0: off."""
    accumulation: int = setting(1, "resumable")
    """Number of micro-batches per optimiser step and process."""
    num_workers: int = setting(1, "none")
    """Number of training processes to start; usually one per accelerator."""
    threads_per_worker: int = setting(0, "none")
    """Number of CPU threads of each process; 0: the cores of the machine, divided evenly."""
    precision: PrecisionChoice = "auto"
    """Number format of weights and activations. With bf16, the optimiser keeps fp32 master weights. `auto`: bf16 if all
    processes compute fast in it (accelerators with bf16, CPUs with AMX, AMD CPUs with AVX-512 BF16), else fp32. A
    resumed run keeps its format. The log and the saved model name the format."""
    zero_stage: Literal[0, 1, 2, 3] = setting(0, "none")
    """What DeepSpeed's ZeRO partitions over the processes. 0: nothing; training uses plain PyTorch and needs no
    DeepSpeed. 1: optimiser state. 2: also gradients. 3: also weights. From 1 on, several processes need DeepSpeed (the
    extra `train`)."""
    activation_checkpointing: bool = setting(False, "none")
    """Recompute the encoder's activations in the backward pass. This takes less memory and about a third more time."""
    compile: bool = setting(False, "none", since_files=True)
    """Compile the encoder's layers with torch.compile, for at most four padded lengths. Not with ZeRO-3. It is meant
    for accelerators, where it has not been timed. It does not pay off on a CPU, where uncompiled layers use faster
    attention and dropout: a compiled bf16 pass of MiniLM-L6 over 32 tokens took 1.7 times as long."""
    gradient_clipping: float = 1.0
    """Maximum global gradient norm; 0: no clipping."""
    name_texts: str = setting("", choosable=True)
    """Train on the label names too, each as one more text of its label. The value is a regular expression whose first
    group selects the part of a name to use, such as (.+) for all of it; underscores become spaces. With a
    labels file, the title is used, followed by the description. Empty: names are not used. Leave it empty if a name can
    be the text of a test example."""
    bucket_by_length: bool = setting(False, choosable=True)
    """Batch texts of similar length. Batches have less padding and about the same number of tokens, but not the same
    number of texts."""
    validation_fraction: float = setting(0.0, since_files=True, choosable=True)
    """Share of the train texts, in [0, 1), that is held out of training for validation. Evaluations during training,
    and all choices that depend on them, use these texts instead of the test split. The share and the number of texts
    alone determine which texts these are, so runs with other seeds hold out the same ones. The label tree, tf-idf and
    propensities still include them. 0: none. If the data set has a split `validation` (`python -m
    cxml.data_tools.split`), no share is needed."""
    evaluate_every: int = setting(0, "none")
    """Number of epochs between evaluations during training, on the validation texts if there are any, else on the test
    split. 0: only at the end, or after every epoch if `keep` is `best` or `refit`."""
    keep: Literal["last", "best", "refit"] = setting("last", since_files=True, choosable=True)
    """Weights that the model gets. `last`: those after the last epoch. `best`: those of the epoch that is best by
    keep_by on the validation texts. `refit`: those of a new training on all texts, including the validation texts, for
    the number of epochs that was best; evidence and thresholds are chosen before it (docs/decisions/0029). `best` and
    `refit` require validation texts."""
    keep_by: str = setting("nDCG@5", since_files=True)
    """Label metric that selects the epoch for `keep`: P, RP, nDCG, PSP, PSnDCG or recall at some k."""
    patience: int = setting(0, since_files=True, choosable=True)
    """Number of evaluations without a better epoch after which training stops, if `keep` is `best` or `refit`; 0:
    training never stops early. With a value and an open `keep`, the run chooses `best` or `refit`."""
    hang_minutes: float = setting(30.0, "none")
    """Number of minutes after which a process that finishes no step prints the stacks of its threads and ends the job.
    The time of saves and evaluations does not count. 0: no limit."""
    deterministic: bool = setting(False, "none", since_files=True)
    """Give the same bits in every run on an accelerator, where the order of sums otherwise depends on the threads. The
    kernels of the rows then take four more launches and move 8 (D + 1) more bytes per text and leaf, and PyTorch
    refuses operations without a deterministic form. Runs on a CPU always give the same bits."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "num_workers"):
            require_at_least(f"train.{name}", getattr(self, name), 1)
        if self.budget:
            parse_duration("train.budget", self.budget)
        for name, value in (("steps", self.steps), ("budget", self.budget)):
            require(
                self.keep != "refit" or not value, f"train.{name}", value,
                "cannot be used with train.keep refit (two trainings)", "Set train.keep to best, or leave this out.",
            )  # fmt: skip
        counts = "steps batch_tokens threads_per_worker gradient_clipping evaluate_every patience hang_minutes"
        for name in counts.split():
            require_at_least(f"train.{name}", getattr(self, name), 0)
        require_group("train.name_texts", self.name_texts)
        require_fraction("train.validation_fraction", self.validation_fraction)
        require(
            not self.compile or self.zero_stage < 3, "train.compile", self.compile,
            "cannot be combined with train.zero_stage 3, which gathers weights when a layer starts",
            "Set it to false, or train.zero_stage to 2.",
        )  # fmt: skip

    @property
    def selects(self) -> bool:
        """Whether validation texts determine the number of epochs."""
        return self.keep != "last"

    @property
    def evaluation_interval(self) -> int:
        """Epochs between evaluations during training; 0: none."""
        return self.evaluate_every or int(self.selects)


def parse_duration(name: str, text: str) -> float:
    """Parse a duration such as 90s, 30m, 1h30m, the value of the field `name`, to seconds.

    Raises:
        ConfigError: it is not a duration, or zero.
    """
    found = _DURATION.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    require(total > 0, name, text, "is not a duration", "Write hours, minutes and seconds, such as 1h30m, 30m or 90s.")
    return total
