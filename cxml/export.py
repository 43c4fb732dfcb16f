"""Write a trained model as one self-contained folder, which loads without Ray and DeepSpeed.

python -m cxml.export runs/quickstart exported
python -m cxml.export runs/quickstart s3://bucket/model --rows int8
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import tyro

from cxml import urls
from cxml.cli import run_tool


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a trained model as one self-contained folder, which loads without Ray and DeepSpeed."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder or a checkpoint; path or fsspec URL."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write; path or fsspec URL."""
    rows: Literal["stored", "fp32", "bf16", "fp8", "int8"] = "stored"
    """Number format of the label rows."""
    logit_adjustment: float = 0.0
    """Part of each label's log odds among the train texts that comes off its logit, such as 0.15: rare labels rank
    higher, and scores are no probabilities any more. `python -m cxml.evaluate --logit-adjustments` shows it."""
    propensity_ranking: float = 0.0
    """Power of the inverse propensity that a label's score is multiplied by before ranking: 1 ranks for PSP@k, 0 for
    P@k. `python -m cxml.evaluate --propensity-rankings` shows it."""
    encoder_program: str = ""
    """Also write the encoder alone as a program of torch.export to this file (.pt2); empty: not."""
    push_to: str = ""
    """Repository OWNER/NAME of the Hugging Face hub to put the folder into, made private if need be; empty: none."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command; the exit code is 0, or 2 if something was refused or failed in a way that cxml names."""
    return run_tool(ExportCommand, _export, "python -m cxml.export", arguments, description=__doc__)


def _export(command: ExportCommand) -> None:
    from cxml.prediction import Predictor, export_encoder, upload  # noqa: PLC0415  the heavy libraries

    predictor = Predictor.from_checkpoint(
        command.model, logit_adjustment=command.logit_adjustment, propensity_ranking=command.propensity_ranking,
        precision="fp32",
    )  # fmt: skip
    predictor.save_pretrained(command.folder, rows=None if command.rows == "stored" else command.rows)
    print(f"Exported to {urls.masked(command.folder)}")
    if command.encoder_program:
        export_encoder(predictor.model.encoder, command.encoder_program)
        print(f"Encoder exported to {urls.masked(command.encoder_program)}")
    if command.push_to:
        print(upload(command.folder, command.push_to))


if __name__ == "__main__":
    sys.exit(main())
