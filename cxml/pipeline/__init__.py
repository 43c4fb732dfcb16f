"""The stages of a run from raw text to metrics. Finished stages are reused if they match the config.

In: the config of a run, with fields that it leaves open.

1. `plan` says what a run needs and how its training is spread over processes; `dry_run` shows it and writes nothing.
2. `settled_config` gives the open fields their values, once the data are prepared.
3. `time_budget` says how many steps fit into the run's time, if that is limited.
4. `stages` are prepare, tree, train, evidence, baseline and evaluate; `run` makes those that are missing.

Out: a folder with the data, the tree, the model and the report.
"""

from cxml.pipeline.run import evaluate_again, make_model, run
from cxml.pipeline.stages import StageName, model_fingerprints

__all__ = ["StageName", "evaluate_again", "make_model", "model_fingerprints", "run"]
