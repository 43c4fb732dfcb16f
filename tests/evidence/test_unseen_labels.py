"""From raw files to a prediction: a label that no text has is found by its title alone."""

import dataclasses
import json

import pytest
from support.runs import make_encoder, small_config

from cxml import pipeline
from cxml.config import EvidenceConfig, SourceConfig
from cxml.prediction import Predictor

pytest.importorskip("faiss")

TITLES = {
    "c0": "old harbour", "c1": "red bicycle", "c2": "corn field", "c3": "night train", "c4": "blue whale",
    "c9": "paper lantern",
}  # fmt: skip


def test_a_label_without_any_text_is_predicted_by_its_title(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    for split, count in (("train", 60), ("validation", 40), ("test", 10)):
        names = [f"c{i % 5}" for i in range(count)]
        lines = (json.dumps({"text": TITLES[name], "labels": [name]}) + "\n" for name in names)
        (folder / f"{split}.jsonl").write_text("".join(lines))
    (folder / "labels.tsv").write_text("".join(f"{name}\t{title}\n" for name, title in TITLES.items()))
    config = small_config(
        tmp_path / "out", make_encoder(tmp_path / "encoder"),
        data={"source": SourceConfig(kind="jsonl", path=str(folder), unseen_labels=True)},
        tree={"level_sizes": ()}, model={"dropouts": (0.0,), "shortlist_sizes": (), "pooling": "mean"},
        train={"epochs": 1},
    )  # fmt: skip
    config = dataclasses.replace(config, evidence=EvidenceConfig(names=True))
    pipeline.run(config)
    predictor = Predictor.from_checkpoint(config.output)
    assert predictor.names == ["c0", "c1", "c2", "c3", "c4", "c9"]
    (best,) = predictor.predict([TITLES["c9"]], k=1)
    assert [(label.name, label.title) for label in best] == [("c9", "paper lantern")]
    cascade = Predictor.from_checkpoint(config.output, evidence=False).predict([TITLES["c9"]], k=6)
    assert cascade[0][0].name != "c9"
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert {each["label"] for example in report["examples"] for each in example["predicted"]} <= {
        f"{name} {title}" for name, title in TITLES.items()
    }
