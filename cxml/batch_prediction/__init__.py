"""Predict files of any size.

Input: a model, and a file of texts or a stream.

1. `read_texts` divides the texts into parts of a fixed number of rows.
2. `Predictor` predicts each part, which depends only on its own rows. Parts can therefore be predicted by this process,
   by processes that share the label rows, or by Ray Data actors, with the same results.
3. Each part is written to a file. An interrupted prediction resumes with the missing parts.

Output: a folder of predictions in the order of the texts, with the manifest written last.
"""

from cxml.batch_prediction.job import PredictionJob
from cxml.batch_prediction.outputs import FORMATS, OutputFormat
from cxml.batch_prediction.run import predict_file, predict_stream

__all__ = ["FORMATS", "OutputFormat", "PredictionJob", "predict_file", "predict_stream"]
