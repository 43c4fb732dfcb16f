"""Write a trained model as one self-contained folder, which loads without Ray and DeepSpeed.

python -m cxml.export runs/quickstart exported
python -m cxml.export runs/quickstart s3://bucket/model --rows int8
python -m cxml.export runs/quickstart exported --form onnx
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

import tyro

from cxml import extras, urls
from cxml.cli import run_tool

if TYPE_CHECKING:
    from cxml.prediction import Predictor


@dataclass(frozen=True, kw_only=True)
class ExportCommand:
    """Write a trained model as one self-contained folder, which loads without Ray and DeepSpeed."""

    model: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="MODEL")]
    """A run's output, its model folder or a checkpoint; path or fsspec URL."""
    folder: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="FOLDER")]
    """Folder to write; path or fsspec URL."""
    form: Literal["cxml", "onnx"] = "cxml"
    """`cxml`: a folder for `cxml.Predictor`. `onnx`: a folder that predicts with onnxruntime, without cxml and PyTorch;
    requires the extra `onnx`."""
    rows: Literal["stored", "fp32", "bf16", "fp8", "int8"] = "stored"
    """Number format of the label rows."""
    logit_adjustment: float = 0.0
    """Multiple of each label's log odds among the train texts that is subtracted from its logit, such as 0.15. Rare
    labels then rank higher, and scores are no longer probabilities. `python -m cxml.evaluate --logit-adjustments` shows
    the effect."""
    propensity_ranking: float = 0.0
    """Power of the inverse propensity by which a label's score is multiplied before ranking: 1 ranks for PSP@k, 0 for
    P@k. `python -m cxml.evaluate --propensity-rankings` shows the effect."""
    evidence: bool = True
    """Keep the sources of evidence beside the cascade (evidence.*), if the model has any. `onnx` cannot contain them
    and then requires --no-evidence."""
    encoder_program: str = ""
    """Also write the encoder alone to this file: as a torch.export program (.pt2), or as an ONNX model if the name ends
    in .onnx. Empty: do not write it."""
    push_to: str = ""
    """Repository OWNER/NAME on the Hugging Face Hub to which the folder is uploaded; a new repository is private.
    Empty: no upload."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit code: 0, or 2 after an error of cxml."""
    return run_tool(ExportCommand, _export, "python -m cxml.export", arguments, description=__doc__)


def _export(command: ExportCommand) -> None:
    if command.form == "onnx":
        extras.require("--form", command.form, *extras.EXTRAS["onnx"])
    if command.encoder_program.endswith(".onnx"):
        extras.require("--encoder-program", command.encoder_program, *extras.EXTRAS["onnx"])
    from cxml.prediction import Predictor, refuse_windows, upload  # noqa: PLC0415  the heavy libraries

    predictor = Predictor.from_checkpoint(
        command.model, logit_adjustment=command.logit_adjustment, propensity_ranking=command.propensity_ranking,
        evidence=command.evidence, precision="fp32",
    )  # fmt: skip
    if command.encoder_program:
        refuse_windows(predictor.parts.config, "--encoder-program", command.encoder_program)
    save = predictor.save_onnx if command.form == "onnx" else predictor.save_pretrained
    save(command.folder, rows=None if command.rows == "stored" else command.rows)
    print(f"Exported to {urls.masked(command.folder)}{_thresholds_of(predictor) if command.form == 'cxml' else ''}")
    if command.encoder_program:
        _export_encoder(predictor, command.encoder_program)
        print(f"Encoder exported to {urls.masked(command.encoder_program)}")
    if command.push_to:
        print(upload(command.folder, command.push_to))


def _thresholds_of(predictor: Predictor) -> str:
    """The end of the message: the thresholds in the folder, or when a model has some."""
    names = ", ".join(predictor.parts.decisions.thresholds)
    if names:
        return f", with the thresholds {names}"
    return ", without thresholds: they exist once a run with validation texts is evaluated, for unadjusted scores"


def _export_encoder(predictor: Predictor, file: str) -> None:
    if file.endswith(".onnx"):
        from cxml.prediction.onnx_encoder import export_onnx_encoder as export  # noqa: PLC0415 - optional
    else:
        from cxml.prediction import export_encoder as export  # noqa: PLC0415  the heavy libraries
    export(predictor.model.encoder, file)


if __name__ == "__main__":
    sys.exit(main())
