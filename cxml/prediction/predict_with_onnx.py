"""Predict labels with this folder's model. Needs only onnxruntime, tokenizers and numpy.

python predict.py "heart attack of the front wall" "another text"
"""

import json
import sys
from pathlib import Path

import numpy as np
import onnxruntime
from tokenizers import Tokenizer


class Model:
    """The model of a folder: texts in, names of labels and scores out."""

    def __init__(self, folder: Path) -> None:
        self.session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
        self.pad_id = int(self.session.get_modelmeta().custom_metadata_map["pad_id"])
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))  # with truncation and padding
        self.names = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
        titles = folder / "titles.json"  # what the labels mean, where the training data said so
        self.title_of = {}
        if titles.exists():
            self.title_of = dict(zip(self.names, json.loads(titles.read_text(encoding="utf-8")), strict=True))

    def predict(self, texts: list[str], k: int = 5) -> list[list[tuple[str, float]]]:
        """The k best labels of each text, best first, each with its score in [0, 1]."""
        if not texts:
            return []
        encodings = self.tokenizer.encode_batch(texts)
        ids = np.array([each.ids or [self.pad_id] for each in encodings], np.int64)
        mask = np.array([each.attention_mask or [1] for each in encodings], np.int64)
        mask[:, 0] = 1  # avoids an empty text
        inputs = {"input_ids": ids, "attention_mask": mask, "k": np.array([k], np.int64)}
        labels, scores = map(np.asarray, self.session.run(["labels", "scores"], inputs))
        return [
            [(self.names[label], float(score)) for label, score in zip(*row, strict=True) if label >= 0]
            for row in zip(labels, scores, strict=True)
        ]


if __name__ == "__main__":
    model = Model(Path(__file__).parent)
    for best in model.predict(sys.argv[1:]):
        print(
            *(f"{score:.4f} {name} {model.title_of.get(name, '')}".rstrip() for name, score in best),
            sep="\n",
            end="\n\n",
        )
