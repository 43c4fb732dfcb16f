"""Export a trained model as one folder that predicts with onnxruntime, without this library and PyTorch.

model.onnx        token ids, attention mask and k in; the k best labels and their scores out
model.onnx.data   its weights, if they exceed the size limit of an ONNX file
labels.json       label names; index = label id
titles.json       their titles, if the data have a labels file; index = label id
tokenizer.json    the encoder's tokenizer, with the model's truncation and padding
predict.py        an example of its usage
README.md         the model card
manifest.json     format, sizes and checksums; written last
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import cast

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import TensorProto, helper
from tokenizers import Tokenizer

from cxml import artefacts, storage
from cxml.data import Ragged, lengths_to_offsets
from cxml.errors import CxmlError, DataError
from cxml.model import CascadeXML
from cxml.prediction.card import model_card
from cxml.prediction.encoder_program import LabelFeatures, encoder_program
from cxml.prediction.export import without_paths
from cxml.prediction.onnx_cascade import add_ranking, scores_all_labels
from cxml.prediction.onnx_encoder import DATA_SUFFIX, begin_model, feature_names, open_session, save_model
from cxml.prediction.onnx_graph import Graph
from cxml.prediction.parts import Parts
from cxml.prediction.results import Predictions
from cxml.storage.locks import locked

_FORMAT, _VERSION = "cxml-onnx", 1
_MODEL, _LABELS, _TOKENIZER, _EXAMPLE, _CARD = "model.onnx", "labels.json", "tokenizer.json", "predict.py", "README.md"
_TITLES = "titles.json"
_AGAIN = "Export the model again."
_CHECKED_K = 10
_CLOSE, _LEAST = 1e-3, 1e-9
"""Relative and absolute tolerance of equal scores."""
_USE = """```
pip install onnxruntime tokenizers numpy
python predict.py "a text"
```
"""


def write_onnx(url: str, parts: Parts, predict: Callable[[Ragged, int], Predictions]) -> None:
    """Write the folder `url`, replacing an earlier ONNX export.

    The scores of the written model in onnxruntime are compared with those of `predict`.

    Args:
        url: path or fsspec URL of a new folder, or of an earlier ONNX export.
        parts: the model with all of its label rows, in the number format to write.
        predict: `Predictor.predict_tokens` of the same parts, in float32.

    Raises:
        DataError: `url` contains other files.
        InUseError: another command writes to it.
        CxmlError: the encoder cannot be exported, or the scores in onnxruntime differ; then `url` is deleted.
    """
    with locked(url):
        if storage.file_sizes(url) and artefacts.format_of(url, _AGAIN) != _FORMAT:
            raise DataError(url, "is a folder with other content", "Use a new folder.")
        storage.remove_finished(url, artefacts.MANIFEST, keep_lock=True)
        try:
            with _local_folder(url) as folder:
                _write_files(folder, parts)
                _check_scores(folder / _MODEL, parts, predict)
        except BaseException:
            storage.remove(url, keep_lock=True)
            raise
        artefacts.write_manifest(url, {"format": _FORMAT, "version": _VERSION, "files": artefacts.file_entries(url)})


@contextmanager
def _local_folder(url: str) -> Iterator[Path]:
    """A local folder whose files are copied to `url` at the end of the context."""
    path = storage.local_path(url)
    if path is not None:
        yield path
        return
    with storage.temporary_folder() as folder:
        yield folder
        for file in sorted(folder.iterdir()):
            storage.write_atomic(storage.join(url, file.name), file.read_bytes())


def _write_files(folder: Path, parts: Parts) -> None:
    _write_model(folder / _MODEL, parts)
    (folder / _LABELS).write_text(json.dumps(parts.names, ensure_ascii=False), encoding="utf-8")
    if parts.titles is not None:
        (folder / _TITLES).write_text(json.dumps(parts.titles, ensure_ascii=False), encoding="utf-8")
    (folder / _TOKENIZER).write_text(_tokenizer(parts).to_str(pretty=False), encoding="utf-8")
    (folder / _EXAMPLE).write_bytes(Path(__file__).with_name("predict_with_onnx.py").read_bytes())
    card = model_card(parts, without_paths(parts.config), use=_USE)
    (folder / _CARD).write_text(card, encoding="utf-8")


def _write_model(path: Path, parts: Parts) -> None:
    encoder = parts.model.encoder.predicting_in(torch.float32)
    model = cast(CascadeXML, parts.model.predicting_with(encoder).eval())
    module = LabelFeatures(encoder) if scores_all_labels(parts) else None
    features = ["features"] if module else feature_names(encoder)
    begun = begin_model(encoder_program(encoder, module), features, path)
    del begun.graph.output[:]
    finish_model(begun, features, path, replace(parts, model=model))


def finish_model(begun: onnx.ModelProto, features: list[str], path: Path, parts: Parts) -> None:
    """Add the cascade to a model that computes features, and write it.

    Args:
        begun: without outputs.
        features: of each level, float32 [B, D]; the labels' alone if all are scored.
        path: of the model; its file of external data is created, or appended to.
        parts: of the model, its clusters in float32.
    """
    begun.graph.input.append(helper.make_tensor_value_info("k", TensorProto.INT64, [1]))
    with path.with_name(path.name + DATA_SUFFIX).open("ab") as data:
        graph = Graph(begun, data)
        labels, scores = add_ranking(graph, parts, features, "k")
        graph.take("labels", labels, TensorProto.INT64, ["batch", "best"])
        graph.take("scores", scores, TensorProto.FLOAT, ["batch", "best"])
    begun.producer_name = "cxml"
    helper.set_model_props(begun, {"pad_id": str(parts.pad_id), "max_length": str(parts.config.data.max_length)})
    save_model(begun, path)
    onnx.checker.check_model(str(path))


def _tokenizer(parts: Parts) -> Tokenizer:
    tokenizer = Tokenizer.from_str(parts.tokenizer.to_str())
    tokenizer.enable_truncation(parts.config.data.max_length)
    pad_token = tokenizer.id_to_token(parts.pad_id) or ""
    tokenizer.enable_padding(direction="right", pad_id=parts.pad_id, pad_token=pad_token)
    return tokenizer


def _check_scores(path: Path, parts: Parts, predict: Callable[[Ragged, int], Predictions]) -> None:
    """Check that labels and scores for random texts equal those of `predict`."""
    session = open_session(path)
    generator = np.random.default_rng(0)
    longest = parts.config.data.max_length
    vocabulary = parts.model.encoder.transformer.config.vocab_size
    for lengths in (np.array([1]), np.array([longest]), generator.integers(1, longest + 1, size=6)):
        tokens = Ragged(
            generator.integers(0, vocabulary, size=lengths.sum(), dtype=np.int32), lengths_to_offsets(lengths)
        )
        expected = predict(tokens, _CHECKED_K)
        labels, scores = _run(session, tokens, parts.pad_id)
        for row in range(len(tokens)):
            if not _agree((labels[row], scores[row]), (expected.labels[row], expected.scores[row])):
                raise CxmlError(
                    f"the exported model predicts {labels[row].tolist()} with scores {scores[row].tolist()}, not "
                    f"{expected.labels[row].tolist()} with {expected.scores[row].tolist()}. Try other versions of "
                    f"PyTorch (this is {torch.__version__}) and onnxruntime ({onnxruntime.__version__})."
                )


def _run(session: onnxruntime.InferenceSession, tokens: Ragged, pad_id: int) -> list[np.ndarray]:
    mask = np.arange(tokens.lengths.max()) < tokens.lengths[:, None]
    ids = np.full(mask.shape, pad_id, np.int64)
    ids[mask] = tokens.values
    inputs = {"input_ids": ids, "attention_mask": mask.astype(np.int64), "k": np.array([_CHECKED_K], np.int64)}
    return [np.asarray(values) for values in session.run(["labels", "scores"], inputs)]


def _agree(found: tuple[np.ndarray, np.ndarray], expected: tuple[np.ndarray, np.ndarray]) -> bool:
    """Whether two rankings have the same scores, and the same labels except for ties with the last one."""
    if found[0].shape != expected[0].shape or not np.allclose(found[1], expected[1], rtol=_CLOSE, atol=_LEAST):
        return False
    own = dict(zip(found[0].tolist(), found[1].tolist(), strict=True))
    last = float(expected[1][-1]) * (1 + 2 * _CLOSE) + 2 * _LEAST
    sure = [(label, score) for label, score in zip(*(each.tolist() for each in expected), strict=True) if score > last]
    return all(abs(own.get(label, 0.0) - score) <= _CLOSE * score + _LEAST for label, score in sure)
