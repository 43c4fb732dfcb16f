"""One rule per field: facts about the data and the config so far -> a value and its reason.

docs/decisions/0028 has the reasons and measurements. A rule may read the fields that come before its own in `RULES`,
whether the user or another rule set them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from cxml.config import Config
from cxml.console import counted
from cxml.data import num_held_out
from cxml.data.order import smallest_batch
from cxml.model.encoder import default_taps
from cxml.optim import RowState
from cxml.settings.facts import Facts
from cxml.tree.shape import level_sizes_for

Rule = Callable[[Facts, Config], tuple[Any, str]]

_DEEP = 12  # least layers of an encoder like the paper's
_PAPER_WIDTH = 768
_FEW_TEXTS = 100  # per label; below it, centroids are a better start than zeros
_REPETITIVE = 50  # texts per label; above it, its name adds nothing
_SHARE_OF_STEP = 0.2  # of the encoder's work that scoring all labels may add
_SHARE_OF_MEMORY = 0.5  # of the free memory for the label rows
_LONG_TAIL = 1.25  # ratio of long to mean length from which bucketing pays off
_RATE_OF_ONE_STEP, _LEAST_RATE, _MOST_RATE, _WIDTH_OF_RATES = 0.25, 2e-3, 1.5e-2, 384
_USUAL_EPOCHS, _USUAL_TEXTS = 8, 90_000
_FEWEST_EPOCHS, _MOST_EPOCHS, _PAPER_EPOCHS = 3, 40, 15
_VALIDATION_SHARE, _MOST_VALIDATION = 0.1, 2000
_FEWEST_TO_VALIDATE = 50  # validation texts; fewer choose the best epoch and the weights of evidence by chance
_FEWEST_TO_SPLIT = 500  # train texts; a tenth of them suffices to learn the weights of evidence
_MOST_TO_REFIT = 10_000  # train texts; with more, a refit takes long and the held-out texts matter less
_BYTES_OF_A_WORD = 12  # an index and a number, in rows and in columns
_NO_WEIGHTS = f"fewer than {_FEWEST_TO_VALIDATE} validation texts are too few to learn its weight"
_SHORTLIST, _LONG_SHORTLISTS, _MANY_LABELS = 64, (128, 256, 512), 100_000


def validation_fraction(facts: Facts, config: Config) -> tuple[float, str]:
    """A tenth of the train texts, at most 2,000 texts: a few weights and thresholds need no more."""
    if facts.num_validation:
        return 0.0, "the data set has a split of validation texts"
    train = config.train
    needs_texts = config.evidence.sources or train.selects or train.patience or train.evaluate_every
    if facts.num_texts < _FEWEST_TO_SPLIT and not needs_texts:
        return 0.0, f"{facts.num_texts:,} texts are too few to hold some out"
    share = _rounded(min(_VALIDATION_SHARE, _MOST_VALIDATION / facts.num_texts))
    if not num_held_out(facts.num_texts, share) and facts.num_texts > 1:
        share = math.ceil(100 / facts.num_texts) / 100  # one text
    return share, "chooses thresholds, evidence and epochs on texts that the model has not seen"


def keep(facts: Facts, config: Config) -> tuple[str, str]:
    """A final fit on all texts if they are few: it takes minutes, and each held-out text matters."""
    is_short = bool(config.train.budget or config.train.steps)
    is_few = _validates(facts, config) and facts.num_texts <= _MOST_TO_REFIT
    if config.train.patience and (is_short or not is_few):
        return "best", "train.patience stops the training after its best epoch"
    if not _validates(facts, config):
        return "last", f"fewer than {_FEWEST_TO_VALIDATE} validation texts cannot compare the epochs"
    if is_short:
        limit = "time budget" if config.train.budget else "limited number of steps"
        return "last", f"the schedule of a {limit} ends at its best epoch"
    if not is_few:
        return "last", "the learning rate falls to the end, so the last epoch is nearly always the best"
    return "refit", f"{facts.num_texts:,} texts are few: the final model also trains on the validation texts"


def words(facts: Facts, config: Config) -> tuple[bool, str]:
    """The linear model of whole texts, if validation texts suffice for its weight and its training fits in memory."""
    if not _validates(facts, config):
        return False, _NO_WEIGHTS
    if not facts.words_per_text:
        return False, "the data set does not keep the words of its tf-idf"
    taken = facts.num_texts * facts.words_per_text * _BYTES_OF_A_WORD
    if taken > _SHARE_OF_MEMORY * facts.machine.free_bytes:
        return False, f"the words of all texts take {taken / 2**30:.1f} GiB of one process's memory"
    return True, "reads all words of a text; the encoder reads a limited number of tokens"


def neighbours(facts: Facts, config: Config) -> tuple[bool, str]:
    """The train texts as evidence, if validation texts suffice for their weight and their features fit in memory."""
    return _searched(facts, config, facts.num_texts, "rare labels gain from the train texts nearest to a text")


def names(facts: Facts, config: Config) -> tuple[bool, str]:
    """The label names as evidence, if texts use their words."""
    if not facts.names_describe:
        return False, "texts do not use the words of their labels' names"
    return _searched(facts, config, facts.num_labels, "texts use the words of their labels' names")


def _searched(facts: Facts, config: Config, count: int, reason: str) -> tuple[bool, str]:
    """Whether a source that searches `count` vectors with faiss can be used."""
    if not _validates(facts, config):
        return False, _NO_WEIGHTS
    if not facts.machine.has_faiss:
        return False, "faiss is not installed: pip install 'cxml[neighbours]'"
    taken = 2 * count * config.model.label_width(facts.encoder.hidden_size)
    if taken > _SHARE_OF_MEMORY * facts.machine.free_bytes:
        return False, f"{count:,} features take {taken / 2**30:.1f} GiB of a process's memory"
    return True, reason


def pooling(facts: Facts, config: Config) -> tuple[str, str]:  # noqa: ARG001 - the form of all rules
    """The encoder's pretraining pooling, else the mean: a first token represents a text only after fine-tuning."""
    if facts.encoder.pooling:
        return facts.encoder.pooling, "the pooling of the encoder's pretraining, from its files"
    return "mean", "the encoder's files name no pooling, and the mean of its tokens works without training"


def level_sizes(facts: Facts, config: Config) -> tuple[tuple[int, ...], str]:
    """See `cxml.tree.shape.level_sizes_for`."""
    sizes = level_sizes_for(facts.num_labels, num_levels_given(config))
    if not sizes:
        return (), f"no clusters are needed for {counted(facts.num_labels, 'label')}"
    return sizes, f"leaves of about {facts.num_labels / sizes[-1]:.0f} of the {facts.num_labels:,} labels"


def num_levels_given(config: Config) -> int | None:
    """Number of levels, labels included, from a list with one value per level; None if no list was given."""
    model = config.model
    for values in (model.taps, model.dropouts, model.level_weights):
        if values:
            return len(values)
    return len(model.shortlist_sizes) + 1 if model.shortlist_sizes else None


def taps(facts: Facts, config: Config) -> tuple[tuple[str, ...], str]:
    """The paper's layers for a deep encoder; the last layer at all levels for a small one (decision 14)."""
    layers, levels = facts.encoder.num_layers, config.num_levels
    if layers < _DEEP or levels == 1:
        return (str(layers),) * levels, f"only the last of {layers} layers was pretrained to represent texts"
    chosen = tuple("+".join(map(str, tap)) for tap in default_taps(layers, levels))
    return chosen, f"the paper's, for an encoder of {layers} layers"


def batch_size(facts: Facts, config: Config) -> tuple[int, str]:
    """The paper's 64; smaller if an epoch has few steps, larger on accelerators if it has very many."""
    num_texts = _trained_texts(facts, config)
    size = _power_of_two(num_texts / 64, 16, 64)
    if facts.machine.has_accelerator and num_texts >= 1_000_000:
        size = 256
    parts = config.train.num_workers * config.train.accumulation
    steps = math.ceil(num_texts / size)
    return max(size, parts), f"an epoch of {counted(num_texts, 'text')} has {counted(steps, 'step')} of {size}"


def epochs(facts: Facts, config: Config) -> tuple[int, str]:
    """Small data sets need more passes for the same number of steps; the fourth root of the size limits the time."""
    num_texts = _trained_texts(facts, config)
    wanted = _USUAL_EPOCHS * (_USUAL_TEXTS / num_texts) ** 0.25
    if facts.machine.has_accelerator and wanted < _PAPER_EPOCHS:
        wanted = min(2 * wanted, _PAPER_EPOCHS)
    chosen = min(max(round(wanted), _FEWEST_EPOCHS), _MOST_EPOCHS)
    return chosen, f"{counted(num_texts, 'text')}: smaller data sets get more epochs"


def patience(facts: Facts, config: Config) -> tuple[int, str]:  # noqa: ARG001 - the form of all rules
    """A quarter of the epochs, if validation texts select the best one.

    The rate falls throughout the training, so the metric rarely rises again after a long pause.
    """
    train = config.train
    if not train.selects:
        return 0, "no epoch is selected"
    waits = math.ceil(max(train.epochs / 4, 3) / train.evaluation_interval)
    return waits, f"a quarter of {counted(train.epochs, 'epoch')}, at least three, without a better one"


def bucket_by_length(facts: Facts, config: Config) -> tuple[bool, str]:
    """If texts differ in length, batches of similar lengths have less padding."""
    longest = min(facts.long_length, config.data.max_length)
    worthwhile = longest > _LONG_TAIL * facts.mean_length
    parts, least = config.train.num_workers * config.train.accumulation, _fewest_of_like_length(facts, config)
    if worthwhile and least < parts:
        return False, f"a batch by length may have only {least} texts, for {parts} processes and micro-batches"
    return worthwhile, f"texts have {facts.mean_length:.0f} tokens on average, and {longest} at the 99th percentile"


def name_texts(facts: Facts, config: Config) -> tuple[str, str]:  # noqa: ARG001 - the form of all rules
    """Names as texts if their words occur in the labels' texts, and labels have few texts (decision 13)."""
    if not facts.name_pattern:
        return "", "texts do not use the words of their labels' names, or the names are whole texts"
    if facts.texts_per_label > _REPETITIVE:
        return "", f"half of the labels have {facts.texts_per_label:.0f} or more texts"
    return facts.name_pattern, f"names share words with their texts, and half of the labels have {_texts(facts)}"


def classifier_start(facts: Facts, config: Config) -> tuple[str, str]:
    """Centroids if labels have too few texts to train a row from zero (decision 13)."""
    if config.model.start_from and config.model.start_with == "all":
        return "fresh", "model.start_from provides the classifiers"
    if facts.texts_per_label >= _FEW_TEXTS:
        return "fresh", f"half of the labels have {facts.texts_per_label:.0f} or more texts each"
    return "centroids", f"half of the labels have {_texts(facts)}"


def candidates(facts: Facts, config: Config) -> tuple[str, str]:
    """All labels if they add at most a fifth to the encoder's work and their rows fit in memory (decision 7)."""
    encoder, head = facts.encoder, config.head
    if head.implementation != "rows":
        return "shortlist", f"head.implementation {head.implementation} only supports shortlists"
    if not config.tree.sizes:
        return "all", "a tree without clusters has no shortlists"
    width = config.model.label_width(encoder.hidden_size)
    share = facts.num_labels * width / (encoder.num_parameters * facts.mean_length)
    per_row = RowState.bytes_per_row(
        width, optimizer=head.optimizer, weights=head.weights, second_moment=head.second_moment
    )
    taken = facts.num_labels * per_row / config.train.num_workers
    if share > _SHARE_OF_STEP:
        return "shortlist", f"scoring all labels would take {share:.1f} times the encoder's work"
    if taken > _SHARE_OF_MEMORY * facts.machine.free_bytes:
        return "shortlist", f"the label rows take {taken / 2**30:.1f} GiB of a process's memory"
    return "all", f"scoring all labels costs {share:.0%} of the encoder's work and cannot miss a label"


def shortlist_sizes(facts: Facts, config: Config) -> tuple[tuple[int, ...], str]:
    """The paper's sizes: 64 per level; 128, 256, 512 towards the labels for large label sets."""
    sizes = config.tree.sizes
    if facts.num_labels < _MANY_LABELS:
        wanted = (_SHORTLIST,) * len(sizes)
    else:
        wanted = (*_LONG_SHORTLISTS, *(_LONG_SHORTLISTS[-1:] * len(sizes)))[: len(sizes)]
    chosen = tuple(min(pair) for pair in zip(wanted, sizes, strict=True))
    return chosen, f"the paper's sizes for {'large' if facts.num_labels >= _MANY_LABELS else 'small'} label sets"


def dropouts(facts: Facts, config: Config) -> tuple[tuple[float, ...], str]:
    """Low for few passes, up to the paper's values at its number of passes."""
    seen, levels = _passes(facts, config), config.num_levels
    if seen < _PAPER_EPOCHS:
        return (*(0.0,) * (levels - 1), 0.1), f"{seen:.3g} passes over the texts hardly overfit"
    spaced = tuple(round(0.1 + 0.2 * level / max(levels - 1, 1), 3) for level in range(levels))
    return spaced, f"{seen:.3g} passes over the texts"


def freeze_layers(facts: Facts, config: Config) -> tuple[int, str]:  # noqa: ARG001 - the form of all rules
    """A third of the layers on a CPU, which saves a quarter of the time."""
    if facts.machine.has_accelerator:
        return 0, "an accelerator is fast enough to train all layers"
    if not facts.encoder.has_separate_layers:
        return 0, "the layers of this encoder cannot be frozen one by one"
    third = facts.encoder.num_layers // 3
    return third, "a third of the layers, which saves a quarter of the time on a CPU"


def encoder_lr(facts: Facts, config: Config) -> tuple[float, str]:
    """The paper's 1e-4 for 12 layers of 768 and batches of 64.

    It decreases with the depth and width of the encoder, and increases with the square root of the batch size, as is
    usual with AdamW.
    """
    encoder = facts.encoder
    scale = (_PAPER_WIDTH / encoder.hidden_size) * (_DEEP / encoder.num_layers)
    rate = 1e-4 * min(max(scale, 0.1), 5.0) * math.sqrt(config.train.batch_size / 64)
    return _rounded(rate), f"the paper's for 12 layers of 768, scaled to {encoder.num_layers} of {encoder.hidden_size}"


def classifier_lr(facts: Facts, config: Config) -> tuple[float, str]:
    """Inversely proportional to the square root of the number of steps, and to the rows' width.

    AdamW changes a weight by about the learning rate in every step, independent of the scale of the loss. Rows have the
    same norm at any width, so single weights of wider rows are smaller.
    """
    steps = max(1, round(_passes(facts, config) * _steps_per_epoch(facts, config)))
    width = config.model.label_width(facts.encoder.hidden_size)
    rate = min(max(_RATE_OF_ONE_STEP / math.sqrt(steps), _LEAST_RATE), _MOST_RATE)
    return _rounded(rate * min(_WIDTH_OF_RATES / width, 4.0)), f"{counted(steps, 'step')} on rows of {width} weights"


def warmup_epochs(facts: Facts, config: Config) -> tuple[float, str]:
    """A twentieth of the training."""
    passes = _passes(facts, config)
    return _rounded(passes / 20), f"a twentieth of {passes:.3g} epochs"


def decay_epochs(facts: Facts, config: Config) -> tuple[float, str]:
    """All but an eighth of the training, in which the rate stays at its peak."""
    passes = _passes(facts, config)
    return _rounded(0.85 * passes), f"nearly all of {passes:.3g} epochs, after the peak"


RULES: dict[str, Rule] = {
    "train.validation_fraction": validation_fraction,
    "train.keep": keep,
    "evidence.words": words,
    "evidence.neighbours": neighbours,
    "evidence.names": names,
    "model.pooling": pooling,
    "tree.level_sizes": level_sizes,
    "model.taps": taps,
    "head.candidates": candidates,
    "model.shortlist_sizes": shortlist_sizes,
    "train.name_texts": name_texts,
    "model.classifier_start": classifier_start,
    "model.freeze_layers": freeze_layers,
    "train.batch_size": batch_size,
    "train.bucket_by_length": bucket_by_length,
    "train.epochs": epochs,
    "train.patience": patience,
    "model.dropouts": dropouts,
    "optim.encoder_lr": encoder_lr,
    "optim.classifier_lr": classifier_lr,
    "optim.warmup_epochs": warmup_epochs,
    "optim.decay_epochs": decay_epochs,
}
"""All rules except that of `data.max_length`, in the order of their application."""


BY_LENGTH = ("model.dropouts", "optim.classifier_lr", "optim.warmup_epochs", "optim.decay_epochs")
"""Fields whose rules depend on the length of the training."""


def words_may_read_texts(config: Config, num_texts: int, *, has_validation: bool) -> bool:
    """Whether `evidence.words` is on or still open, and validation texts can weigh it.

    Args:
        config: of the run, with fields that are still open.
        num_texts: train texts.
        has_validation: whether the data set has a split of validation texts.
    """
    is_open = "train.validation_fraction" in config.auto
    holds_out = num_texts >= _FEWEST_TO_SPLIT if is_open else config.train.validation_fraction > 0
    return ("evidence.words" in config.auto or config.evidence.words) and (has_validation or holds_out)


def _validates(facts: Facts, config: Config) -> bool:
    """Whether the run has enough validation texts to choose by."""
    held_out = num_held_out(facts.num_texts, config.train.validation_fraction)
    return max(facts.num_validation, held_out) >= _FEWEST_TO_VALIDATE


def _trained_texts(facts: Facts, config: Config) -> int:
    """Texts of an epoch, without those held out for validation."""
    return max(1, facts.num_texts - num_held_out(facts.num_texts, config.train.validation_fraction))


def _passes(facts: Facts, config: Config) -> float:
    """Passes over the texts in the whole training."""
    steps, epochs = config.train.steps, config.train.epochs
    return min(steps / _steps_per_epoch(facts, config), epochs) if steps else epochs


def _steps_per_epoch(facts: Facts, config: Config) -> int:
    return math.ceil(_trained_texts(facts, config) / config.train.batch_size)


def _fewest_of_like_length(facts: Facts, config: Config) -> int:
    """Texts of the smallest batch by length, at least, however many names of labels join the texts."""
    size, steps = config.train.batch_size, _steps_per_epoch(facts, config)
    return min(smallest_batch(_trained_texts(facts, config), steps), smallest_batch(steps * size + 1, steps + 1))


def _texts(facts: Facts) -> str:
    return f"at most {counted(round(facts.texts_per_label), 'text')}"


def _power_of_two(wanted: float, least: int, most: int) -> int:
    """The largest power of two not above `wanted`, clipped to the bounds, which are powers of two."""
    return min(max(2 ** math.floor(math.log2(max(wanted, 1))), least), most)


def _rounded(value: float) -> float:
    """Round to two significant digits."""
    return float(f"{value:.2g}")
