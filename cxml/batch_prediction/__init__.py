"""Prediction of files: any number of texts in, a folder of predictions in their order out.

    texts --read_texts--> parts of a fixed number of rows --Predictor--> part files --> manifest, written last

A part depends on its own rows alone, so parts are predicted by this process, by processes that share the label rows,
or by Ray Data's actors, to the same predictions; and a run that was stopped goes on with the parts that are missing.
"""

from cxml.batch_prediction.job import PredictionJob
from cxml.batch_prediction.outputs import FORMATS, OutputFormat
from cxml.batch_prediction.run import predict_file, predict_stream

__all__ = ["FORMATS", "OutputFormat", "PredictionJob", "predict_file", "predict_stream"]
