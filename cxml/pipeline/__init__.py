"""The stages of a run from raw text to metrics. Finished stages are reused if they match the config.

Input: the config of a run, which may have open fields.

1. `checks` rejects contradictory settings before the first stage; `plan` computes memory, traffic and steps of the
   training, and `dry_run` prints them without writing anything.
2. `resolved_config` sets the open fields after the data are prepared.
3. `time_budget` computes the number of steps within the run's time limit, if it has one.
4. `stages` defines prepare, tree, train, evidence, baseline and evaluate; `run` runs the unfinished ones.

Output: a folder with the data, the tree, the model and the report.
"""

from cxml.pipeline.plan import splits_of
from cxml.pipeline.run import evaluate_again, make_model, run
from cxml.pipeline.stages import StageName, model_fingerprints

__all__ = ["StageName", "evaluate_again", "make_model", "model_fingerprints", "run", "splits_of"]
