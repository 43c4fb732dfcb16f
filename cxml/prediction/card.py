"""The model card of an exported model: its origin, metrics and usage."""

from __future__ import annotations

import yaml

from cxml.config import Config, config_to_dict
from cxml.console import counted
from cxml.prediction.parts import Parts

_USE = """```python
import cxml

model = cxml.Predictor.from_pretrained("this folder")
print(model.predict(["a text"], k=5)[0])
```
"""


def model_card(parts: Parts, config: Config, use: str = _USE) -> str:
    """Markdown with a YAML header for the Hugging Face hub.

    Args:
        parts: the model.
        config: its run's config, without locations.
        use: usage of the folder, as Markdown.
    """
    head = yaml.safe_dump(
        {"library_name": "cxml", "pipeline_tag": "text-classification",
         "tags": ["extreme-multi-label-classification", "cascadexml"]},
        sort_keys=False,
    )  # fmt: skip
    levels = ", ".join(f"{size:,}" for size in parts.tree.level_sizes[:-1])
    source = config.data.source
    return "\n".join([
        f"---\n{head}---\n# CascadeXML over {counted(parts.tree.num_labels, 'label')}\n",
        "An extreme multi-label text classifier, trained with cxml. The method is",
        "CascadeXML (Kharbanda et al., NeurIPS 2022, arXiv 2211.00640).\n",
        "## Use\n", use,
        "## Model\n",
        f"- encoder: `{config.model.encoder}`, {parts.model.encoder.hidden_size} wide, texts up to "
        f"{config.data.max_length} tokens",
        f"- clusters per level, coarse to fine: {levels or 'none'}; labels: {parts.tree.num_labels:,}",
        f"- label rows: {parts.rows.format}, {parts.rows.weight.shape[1]} wide, {parts.rows.num_bytes:,} bytes",
        *_evidence(parts), *_adjustment(parts), f"- weights of: `{parts.facts['fingerprint']}`\n",
        "## Data\n",
        f"- form `{source.kind}`, source `{source.path or source.kind}`, prepared by the settings below\n",
        "## Metrics\n", *_metrics(parts), "",
        "Scores are products of the model's probabilities, and are not calibrated. The model predicts only labels of",
        "its training data, and reproduces their errors.\n",
        "## Training\n",
        f"```yaml\n{yaml.safe_dump(config_to_dict(config), sort_keys=False, default_flow_style=None, width=100)}```\n",
    ])  # fmt: skip


def _evidence(parts: Parts) -> list[str]:
    evidence = parts.evidence
    if evidence is None:
        return []
    texts = evidence.combination.num_texts
    return [
        *(f"- beside the cascade, {source.description}" for source in evidence.sources),
        f"- their weights were learnt on {counted(texts, 'validation text')}",
    ]


def _adjustment(parts: Parts) -> list[str]:
    strength, power = (parts.facts.get(name) for name in ("logit_adjustment", "propensity_ranking"))
    said = []
    if strength:
        said.append(f"- rare labels rank higher: {strength:g} of each label's log odds is subtracted from its logit")
    if power:
        said.append(f"- rare labels rank higher: ranked by score times inverse propensity to the power of {power:g}")
    return said


def _metrics(parts: Parts) -> list[str]:
    metrics = parts.facts.get("metrics")
    if not isinstance(metrics, dict) or not metrics:
        return ["No metrics were recorded with the model."]
    rows = [f"| {name} | {value:.2f} |" for name, value in metrics.items()]
    is_changed = parts.rows.format != "fp32" or _adjustment(parts)
    note = ["", "Metrics of the run, with label rows and ranking as trained."] if is_changed else []
    return ["On the test split, in percent:\n", "| metric | value |", "| --- | ---: |", *rows, *note]
