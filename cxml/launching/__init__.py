"""Who starts the processes of a training: this command, Ray Train, or a launcher outside.

A run is a row of stages (`cxml.pipeline`). Two of them, training and evaluation, are jobs of many processes; how these
come to be is all that the ways of launching differ in. A `RunJob` takes a job's function and arguments, has every
process of the job call it, and returns what rank 0 got.

    python -m cxml.train                      `run_workers`: new processes on this machine
    ray job submit -- python -m cxml.train    `run_on_ray`: Ray Train's workers, anywhere on the cluster
    deepspeed launch/train.py, torchrun, ...  `LaunchedJobs`: the processes are there already
"""

from cxml.launching.choice import RunJob, processes_per_machine, run_job_for
from cxml.launching.launched import LaunchedJobs
from cxml.launching.rank_environment import complete_rank_environment

__all__ = ["LaunchedJobs", "RunJob", "complete_rank_environment", "processes_per_machine", "run_job_for"]
