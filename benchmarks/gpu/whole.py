"""Measures a training of Amazon-3M's size on one real card: memory, time of an epoch, checkpoints, prediction.

    benchmarks/gpu/whole.sh [--rehearse] [FOLDER]          # all stages, each with a time limit of its own
    python benchmarks/gpu/whole.py STAGE ... [--rehearse] [--labels 2812281] [--results FILE]

The model has the shape of BERT-base with random weights, in bf16. A step has 128 texts of 128 tokens and 36 labels
each. Loader, engine, schedule and checkpoints are those of a training. The stages are:

rows         each number format of the label rows, with all labels scored, activations recomputed or kept: the card's
             peak memory beside the plan of `--dry-run`, texts per second, and the time of an epoch of Amazon-3M if all
             of its texts were as long. Beside them stand the figures that ELMO's authors published for one GPU.
checkpoint   a checkpoint to local disk, saved in the background and while training waits, and loaded again: seconds,
             how long training stands still, how far memory grows.
compile      a step with `train.compile` and one without, alternately, and the duration of the first compiled step.
evaluation   texts per second of a model with shortlists (three levels of clusters) and of its encoder alone,
             alternately.
"""

from __future__ import annotations

import argparse
import itertools
import shutil
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import without_unused  # noqa: F401  # isort: skip - before cxml

import psutil
import torch
import torch.distributed as dist
from levels import alone_on, clear, spread_choices, time_steps
from memory import FORMATS, Case, Sizes, case_of, config_of, plan_of
from random_texts import RandomTexts
from results import Results
from transformers import BertConfig, BertModel
from transformers.utils import logging

from cxml.accelerators import device_memory, device_name, device_of, synchronize, use_device
from cxml.checkpoint import Progress, Saver, ShardReader, TrainingState, list_checkpoints
from cxml.config import CheckpointConfig, Config
from cxml.data import Batch, EvalLoader, TrainLoader
from cxml.model import LevelPrediction
from cxml.parallel import ShardedLevel
from cxml.training import predict_split, train_step
from cxml.training.setting_up import set_up_on

GIB = 2**30
EPOCH_TEXTS, LABELS_OF_A_TEXT = 1_717_899, 36  # Amazon-3M
ELMO_MINUTES = {"fp8, SGD": 18 + 2 / 60, "bf16, SGD": 25 + 15 / 60}  # time of an epoch
SAVED = ("bf16, SGD", "bf16, AdamW, one second moment per row")
WARM_UP = 3
K = 5


@dataclass(frozen=True, kw_only=True)
class Bench:
    """Common settings of the stages.

    Attributes:
        sizes: sizes of a training in which all labels are scored.
        tree_sizes: sizes of a training with shortlists.
        shortlist_sizes: number of clusters that each of its levels selects for the next.
        architecture: shape of the encoder.
        texts: number of texts to train and predict on.
        steps: steps that are timed together.
        rounds: number of timings.
        folder: folder on the disk for checkpoints.
        device: the card.
        results: receives the figures.
    """

    sizes: Sizes
    tree_sizes: tuple[int, ...]
    shortlist_sizes: tuple[int, ...]
    architecture: BertConfig
    texts: int
    steps: int
    rounds: int
    folder: Path
    device: torch.device
    results: Results

    def random_texts(self) -> RandomTexts:
        """Make the texts of the benchmark."""
        return RandomTexts(
            self.texts, tokens=self.sizes.tokens, labels=self.sizes.labels, labels_of_a_text=LABELS_OF_A_TEXT,
            vocabulary=self.architecture.vocab_size,
        )  # fmt: skip

    def seconds(self, ways: Mapping[str, Callable[[int], object]], steps: int) -> dict[str, float]:
        """Median seconds of a call of each function in `ways`; the functions alternate over the rounds."""
        found: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(self.rounds):
            for name, take in ways.items():
                found[name].append(time_steps(take, steps, self.device))
        return {name: statistics.median(each) for name, each in found.items()}


class Training:
    """A training on random texts that takes one step per call."""

    def __init__(self, bench: Bench, config: Config, sizes: Sizes) -> None:
        torch.manual_seed(0)
        self.state, self._schedule = set_up_on(bench.random_texts(), sizes.tree(), config, alone_on(bench.device))
        self.state.engine.train()
        self.num_steps = 0
        self._batches = all_epochs(self.state.loader)

    def step(self, _: int = 0) -> None:
        """Take the next step; the host does not wait for it."""
        self._schedule.apply(self.num_steps)
        self.num_steps += 1
        train_step(self.state.engine, next(self._batches), self.state.ranks, self.num_steps)

    def steps(self, count: int) -> None:
        """Take `count` steps."""
        for _ in range(count):
            self.step()


def all_epochs(loader: TrainLoader) -> Iterator[list[Batch]]:
    """Yield the micro-batches of each step, endlessly."""
    for epoch in itertools.count():
        yield from loader.epoch(epoch)


def measure_rows(bench: Bench) -> None:
    """Run the stage `rows`."""
    for rows, recomputes in itertools.product(FORMATS, (True, False)):
        case = case_of(rows, recomputes=recomputes)
        try:
            measure_case(bench, case, rows)
        except torch.OutOfMemoryError as error:
            print(f"{case.name}: {error}")
            bench.results.note(f"{case.name}: peak memory", None, "GiB")


def measure_case(bench: Bench, case: Case, rows: str) -> None:
    """Measure memory and speed of one row format."""
    clear(bench.device)
    config = config_of(case, bench.sizes, bench.folder)
    training = Training(bench, config, bench.sizes)
    training.steps(WARM_UP)  # compiles kernels and makes the optimiser's state
    (seconds,) = bench.seconds({case.name: training.step}, bench.steps).values()
    beside = {"plan": plan_of(config, bench.sizes).bytes_per_rank / GIB, "with the allocator's": reserved(bench.device)}
    bench.results.note(
        f"{case.name}: peak memory", peak(bench.device), "GiB", beside | {"ELMO": case.most or None}
    )  # fmt: skip
    bench.results.note(
        f"{case.name}: an epoch of {EPOCH_TEXTS:,} texts would take", EPOCH_TEXTS / bench.sizes.texts * seconds / 60,
        "min", {"texts/s": bench.sizes.texts / seconds, "ELMO": ELMO_MINUTES.get(rows)},
    )  # fmt: skip


def peak(device: torch.device) -> float | None:
    """Peak memory of tensors on the device since `clear`, in GiB."""
    found = device_memory(device)
    return None if found is None else found[1] / GIB


def reserved(device: torch.device) -> float | None:
    """Peak memory including what the allocator keeps for later, in GiB."""
    return torch.cuda.max_memory_reserved(device) / GIB if device.type == "cuda" else None


def measure_checkpoints(bench: Bench) -> None:
    """Run the stage `checkpoint`."""
    for rows in SAVED:
        measure_checkpoint(bench, rows)


def measure_checkpoint(bench: Bench, rows: str) -> None:
    """Save in the background and while training waits, and load."""
    clear(bench.device)
    training = Training(bench, config_of(case_of(rows, recomputes=True), bench.sizes, bench.folder), bench.sizes)
    training.steps(WARM_UP)
    kept = {name: tensor.to("cpu", copy=True) for name, tensor in label_rows(training).items()}
    num_bytes = training.state.state_dict(Progress(step=training.num_steps), {}).num_bytes
    if shutil.disk_usage(bench.folder).free < 1.2 * num_bytes:
        bench.results.note(f"{rows}: checkpoint, for which the disk is too small", None, "GiB")
        return
    bench.results.note(f"{rows}: checkpoint", num_bytes / GIB, "GiB")
    url = bench.folder / "checkpoints"
    for way, free_memory in (("in the background", 1 << 60), ("while training waits", 0)):
        shutil.rmtree(url, ignore_errors=True)
        save(bench, training, f"{rows}: checkpoint {way}", str(url), free_memory)
    load(bench, training, f"{rows}: checkpoint loaded", str(url), kept)
    shutil.rmtree(url)


def label_rows(training: Training) -> dict[str, torch.Tensor]:
    """Tensors that are compared to check that a checkpoint restores what was saved."""
    rows = cast(ShardedLevel, training.state.model.label_head).rows
    return {"weight": rows.weight, "bias": rows.bias}


def save(bench: Bench, training: Training, what: str, url: str, free_memory: int) -> None:
    """Save while no step runs, so that the state does not change."""
    saver = Saver(url, CheckpointConfig(), training.state.ranks, free_memory=lambda: free_memory)
    synchronize(bench.device)
    with Growth(bench.device) as growth:
        began = time.perf_counter()
        saver.start(training.state.state_dict(Progress(step=training.num_steps), {}))
        stall = time.perf_counter() - began
        saver.wait()
        seconds = time.perf_counter() - began
    saver.close()
    bench.results.note(what, seconds, "s", {"training stands still, s": stall, **growth.beside()})


def load(bench: Bench, training: Training, what: str, url: str, kept: dict[str, torch.Tensor]) -> None:
    """Load after a few more steps, and check that these are undone."""
    training.steps(WARM_UP)
    synchronize(bench.device)
    state = training.state
    with Growth(bench.device) as growth:
        began = time.perf_counter()
        reader = ShardReader(list_checkpoints(url)[0].url)
        state.load_state_dict(reader)
        state.finish(reader)
        synchronize(bench.device)
        seconds = time.perf_counter() - began
    if not all(torch.equal(tensor.cpu(), kept[name]) for name, tensor in label_rows(training).items()):
        raise SystemExit(f"{what}: the loaded label rows differ from the saved ones")
    bench.results.note(what, seconds, "s", growth.beside())


@dataclass
class Growth:
    """Growth of the memory of host and device within its context, sampled every few milliseconds."""

    device: torch.device
    host: float = 0.0
    card: float | None = None
    _is_over: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> Growth:
        before = device_memory(self.device)
        self._before = psutil.Process().memory_info().rss, None if before is None else before[0]
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._is_over.wait(0.01):
            self.host = max(self.host, (psutil.Process().memory_info().rss - self._before[0]) / GIB)

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()
        after = device_memory(self.device)
        if after is not None and self._before[1] is not None:
            self.card = (after[1] - self._before[1]) / GIB

    def beside(self) -> dict[str, float | None]:
        """Return the figures for `Results.note`."""
        return {"host grows by, GiB": self.host, "card by, GiB": self.card}


def measure_compiled(bench: Bench) -> None:
    """Run the stage `compile`."""
    trainings: dict[str, Training] = {}
    for way in ("as it is", "compiled"):
        config = config_of(case_of("bf16, SGD", recomputes=False), bench.sizes, bench.folder)
        config = replace(config, train=replace(config.train, compile=way == "compiled"))
        began = time.perf_counter()
        training = trainings[way] = Training(bench, config, bench.sizes)
        training.step()
        synchronize(bench.device)
        bench.results.note(f"train.compile, {way}: set-up and first step", time.perf_counter() - began, "s")
        training.steps(WARM_UP)
    seconds = bench.seconds({way: training.step for way, training in trainings.items()}, bench.steps)
    plain = {"as it is": 1e3 * seconds["as it is"]}
    bench.results.note("train.compile: a step", 1e3 * seconds["compiled"], "ms", plain)


def measure_evaluation(bench: Bench) -> None:
    """Run the stage `evaluation`."""
    sizes = replace(bench.sizes, level_sizes=bench.tree_sizes)
    case = Case(name="shortlists", head=FORMATS["bf16, SGD"], recomputes=False)
    config = config_of(case, sizes, bench.folder)
    config = replace(config, model=replace(config.model, shortlist_sizes=bench.shortlist_sizes))
    state = Training(bench, config, sizes).state
    spread_choices(state.model, state.tree, config)
    state.engine.eval()
    texts, batch_size = bench.random_texts(), min(config.evaluate.batch_size, bench.texts // 2)
    loader = EvalLoader(texts, batch_size=batch_size, rank=0, world_size=1, pad_id=0)
    ways = {"evaluation": lambda _: evaluate(state, loader), "encoder": lambda _: encode(state, loader)}
    for take in ways.values():
        take(0)
    seconds = bench.seconds(ways, 1)
    beside = {"its encoder alone": bench.texts / seconds["encoder"]}
    bench.results.note(
        f"evaluation with shortlists, batches of {batch_size}", bench.texts / seconds["evaluation"], "texts/s", beside
    )


@torch.inference_mode()
def evaluate(state: TrainingState, loader: EvalLoader) -> None:
    """Find the best labels of all texts as `cxml.evaluate` does."""

    def predict(batch: Batch, k: int) -> list[LevelPrediction]:
        return state.model(batch, predict_k=k)

    predict_split(predict, loader, K, state.tree, state.ranks)


@torch.inference_mode()
def encode(state: TrainingState, loader: EvalLoader) -> None:
    """Compute the features of all texts."""
    for _, batch in loader:
        own = batch.to(state.ranks.device)
        state.model.encoder(own.input_ids, own.attention_mask)


STAGES = {
    "rows": measure_rows, "checkpoint": measure_checkpoints, "compile": measure_compiled,
    "evaluation": measure_evaluation,
}  # fmt: skip


def main() -> None:
    """Parse, set up, run a stage."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--rehearse", action="store_true", help="tiny sizes on a fake accelerator")
    parser.add_argument("--labels", type=int, default=2_812_281)
    parser.add_argument("--results", type=Path, help="file to which the figures are added")
    options = parser.parse_args()
    logging.disable_progress_bar()
    with placed(is_rehearsal=options.rehearse) as (device, folder):
        print(f"{device_name(device)}, PyTorch {torch.__version__}")
        results = Results(options.results, device_name(device))
        bench = small_bench if options.rehearse else card_bench
        own = bench(options.labels, folder, device, results)
        BertModel(own.architecture).save_pretrained(folder)
        for stage in options.stages:
            STAGES[stage](own)


@contextmanager
def placed(*, is_rehearsal: bool) -> Iterator[tuple[torch.device, Path]]:
    """Yield a device and a folder for files; a process group of this process alone exists within the context."""
    with ExitStack() as stack:
        if is_rehearsal:
            from support.fake_accelerator import fake_accelerator  # noqa: PLC0415 - registers a device

            torch.set_num_threads(1)
            device = stack.enter_context(fake_accelerator())
            stack.enter_context(torch.compiler.set_stance("force_eager"))  # torch.compile does not support this device
        else:
            device = device_of(0)
            use_device(device)
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)  # pyright: ignore[reportPrivateImportUsage]
        stack.callback(dist.destroy_process_group)
        yield device, Path(stack.enter_context(tempfile.TemporaryDirectory()))


def card_bench(labels: int, folder: Path, device: torch.device, results: Results) -> Bench:
    """Settings for a card."""
    return Bench(
        sizes=Sizes(labels=labels), tree_sizes=(4096, 32768, 262144), shortlist_sizes=(128, 256, 400),
        architecture=BertConfig(), texts=8192, steps=10, rounds=3, folder=folder, device=device, results=results,
    )  # fmt: skip


def small_bench(_: int, folder: Path, device: torch.device, results: Results) -> Bench:
    """Settings for a rehearsal."""
    architecture = BertConfig(
        vocab_size=1000, hidden_size=64, num_hidden_layers=4, num_attention_heads=4, intermediate_size=128
    )
    return Bench(
        sizes=Sizes(labels=2_000, texts=8, tokens=12, level_sizes=(16, 64)), tree_sizes=(8, 32, 128),
        shortlist_sizes=(4, 12, 20), architecture=architecture, texts=32, steps=1, rounds=1, folder=folder,
        device=device, results=results,
    )  # fmt: skip


if __name__ == "__main__":
    main()
