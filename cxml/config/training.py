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
    """Peak learning rate of the encoder, projections of joined layers included."""
    classifier_lr: float = setting(1e-3, choosable=True)
    """Peak learning rate of the level heads and of a bottleneck; the paper takes ten times the encoder's."""
    encoder_weight_decay: float = 0.05
    """Decoupled weight decay of the encoder; biases and norms have none."""
    classifier_weight_decay: float = 0.005
    """Decoupled weight decay of the level heads and of a bottleneck; the paper takes a tenth of the encoder's."""
    beta1_high: float = 0.95
    """AdamW's beta1 at the start and the end of the cycle, in [0, 1)."""
    beta1_low: float = 0.85
    """AdamW's beta1 while the learning rate is at its peak, in [0, 1)."""
    beta2: float = 0.999
    """AdamW's beta2, in [0, 1)."""
    epsilon: float = 1e-8
    """AdamW's epsilon."""
    warmup_epochs: float = setting(1.0, choosable=True)
    """Epochs of cosine rise from lr/10 to lr."""
    decay_epochs: float = setting(3.0, choosable=True)
    """Last epochs, of cosine fall from lr to lr/1000."""

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
    """The training loop and how it is spread over processes."""

    epochs: int = setting(10, choosable=True)
    """Passes over the training texts."""
    steps: int = setting(0, since_files=True)
    """Optimiser steps after which training ends, within an epoch too, if `epochs` are not over before; 0: none."""
    budget: str = setting("", since_files=True)
    """Time for the whole run, from raw data to report, such as 30m, 1h30m or 90s. A few timed steps on this machine
    tell how many fit, at most those of `epochs`, and the schedule is made for them; the number follows the speed on the
    way (docs/decisions/0029). Not with `keep: refit`. Empty: no limit."""
    batch_size: int = setting(64, choosable=True)
    """Texts per optimiser step, over all processes and micro-batches together."""
    batch_tokens: int = setting(0, since_files=True)
    """Most tokens per optimiser step, padding counted, over all processes and micro-batches together: a step takes as
    many texts of similar length as fit, whatever batch_size and bucket_by_length say. A text longer than that has a
    step of its own. The loss is the mean over the texts of a step, so texts in steps of few weigh more. 0: off."""
    accumulation: int = setting(1, "resumable")
    """Micro-batches per optimiser step and process."""
    num_workers: int = setting(1, "none")
    """Training processes to start on this machine; one per accelerator is usual."""
    threads_per_worker: int = setting(0, "none")
    """CPU threads of each process; 0: the machine's cores shared out evenly."""
    precision: PrecisionChoice = "auto"
    """Number format of weights and activations; with bf16 the optimiser keeps fp32 master weights. auto: bf16 where all
    processes compute fast in it (accelerators that have it, processors with AMX, AMD's with AVX-512 BF16), else fp32; a
    run that resumes keeps the format in which it began. The log and the saved model say which it was."""
    zero_stage: Literal[0, 1, 2, 3] = setting(0, "none")
    """What DeepSpeed's ZeRO partitions over the processes. 0: nothing; training is plain PyTorch and needs no
    DeepSpeed. 1: optimiser state; 2: and gradients; 3: and weights. From 1 on several processes need DeepSpeed (the
    extra `train`)."""
    activation_checkpointing: bool = setting(False, "none")
    """Recompute the encoder's activations in the backward pass: less memory, about a third more time."""
    compile: bool = setting(False, "none", since_files=True)
    """Train the encoder's layers by code that torch.compile makes, for at most four padded lengths. Not with ZeRO-3.
    Meant for accelerators, where it has not been timed. On a CPU it does not pay: on a Xeon with AMX, one thread,
    MiniLM-L6 and 32 tokens, a compiled pass took 1.1 times as long in fp32 and 1.3 times in bf16."""
    gradient_clipping: float = 1.0
    """Largest global gradient norm; 0 turns clipping off."""
    name_texts: str = setting("", choosable=True)
    """Train on the labels' names too, each as one more text of its label: a regular expression whose first group is the
    part of a name to take, such as (.+) for all of it; underscores become spaces. Empty: no. Not where names are the
    very texts of the test split."""
    bucket_by_length: bool = setting(False, choosable=True)
    """Put texts of similar length into a batch: less padding, as many tokens in every batch, but not as many texts."""
    validation_fraction: float = setting(0.0, since_files=True)
    """Share of the train texts, in [0, 1), that training leaves out: evaluations during training, and what is chosen
    with their help, then rest on them instead of the test split. Which texts depends on their number alone, so that
    runs with other seeds hold out the same. The label tree, tf-idf and propensities still count them. 0: none. A data
    set with a split `validation` (`python -m cxml.data_tools.split`) needs no share: that split serves."""
    evaluate_every: int = setting(0, "none")
    """Epochs between evaluations during training, on the validation texts if there are any, else on the test split;
    0: only at the end, or after every epoch where `keep` is not `last`."""
    keep: Literal["last", "best", "refit"] = setting("last", since_files=True)
    """Which weights become the model. `last`: those after the last epoch. `best`: those of the epoch that is best by
    keep_by on the validation texts. `refit`: new ones, trained for as many epochs as the best one had seen on all
    texts, those of validation included; words and thresholds are combined and chosen before (docs/decisions/0029).
    Without validation texts, `best` and `refit` are refused."""
    keep_by: str = setting("nDCG@5", since_files=True)
    """Metric of the labels that `keep` goes by: P, RP, nDCG, PSP, PSnDCG or recall at one of evaluate.top_k."""
    patience: int = setting(0, since_files=True)
    """Evaluations without a better epoch after which training stops, where `keep` is `best` or `refit`; 0: none."""
    hang_minutes: float = setting(30.0, "none")
    """Minutes after which a process that finishes no step prints the stacks of its threads and ends, and the job with
    it. Time that training waits for a save or an evaluation does not count. 0: no limit."""
    deterministic: bool = setting(False, "none", since_files=True)
    """The same run twice gives the same bits on an accelerator too, where sums otherwise depend on the order in which
    threads come. The kernels of the rows then take four more launches and move 8 (D + 1) bytes more per text and leaf,
    and PyTorch refuses operations that have no deterministic form. On a CPU runs always give the same bits."""

    def __post_init__(self) -> None:
        for name in ("epochs", "batch_size", "accumulation", "num_workers"):
            require_at_least(f"train.{name}", getattr(self, name), 1)
        if self.budget:
            parse_duration("train.budget", self.budget)
        for name, value in (("steps", self.steps), ("budget", self.budget)):
            require(
                self.keep != "refit" or not value, f"train.{name}", value,
                "does not go with train.keep refit, which trains twice", "Set train.keep to best, or leave this out.",
            )  # fmt: skip
        counts = "steps batch_tokens threads_per_worker gradient_clipping evaluate_every patience hang_minutes"
        for name in counts.split():
            require_at_least(f"train.{name}", getattr(self, name), 0)
        require(
            self.keep != "last" or not self.patience, "train.patience", self.patience,
            "needs a best epoch to wait for, but train.keep is last", "Set train.keep to best, or leave this out.",
        )  # fmt: skip
        require_group("train.name_texts", self.name_texts)
        require_fraction("train.validation_fraction", self.validation_fraction)
        require(
            not self.compile or self.zero_stage < 3, "train.compile", self.compile,
            "does not go with train.zero_stage 3, which brings weights to a layer as it begins",
            "Set it to false, or train.zero_stage to 2.",
        )  # fmt: skip

    @property
    def selects(self) -> bool:
        """Whether validation texts decide how many epochs the model is trained for."""
        return self.keep != "last"

    @property
    def evaluation_interval(self) -> int:
        """Epochs between evaluations during training; 0: there are none."""
        return self.evaluate_every or int(self.selects)


def parse_duration(name: str, text: str) -> float:
    """The seconds of a duration such as 90s, 30m, 1h30m, which the field `name` holds.

    Raises:
        ConfigError: it is none, or no time at all.
    """
    found = _DURATION.fullmatch(text)
    hours, minutes, seconds = (float(part or 0) for part in found.groups()) if found else (0.0, 0.0, 0.0)
    total = 3600 * hours + 60 * minutes + seconds
    require(total > 0, name, text, "is not a duration", "Write hours, minutes and seconds, such as 1h30m, 30m or 90s.")
    return total
