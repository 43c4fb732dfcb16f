"""Predict files of any size: texts in, a folder of predictions in their order out.

    texts --read_texts--> parts of a fixed number of rows --Predictor--> part files --> manifest, written last

A part depends only on its own rows. Parts can therefore be predicted by this process, by processes that share the label
rows, or by Ray Data actors, with the same results, and an interrupted prediction resumes with the missing parts.
"""

from cxml.batch_prediction.job import PredictionJob
from cxml.batch_prediction.outputs import FORMATS, OutputFormat
from cxml.batch_prediction.run import predict_file, predict_stream

__all__ = ["FORMATS", "OutputFormat", "PredictionJob", "predict_file", "predict_stream"]
