"""Start the processes of a training: by this command, Ray Train, or an external launcher.

A run is a sequence of stages (`cxml.pipeline`). Two of them, training and evaluation, are jobs of many processes. The
launch methods differ only in how these processes start. A `RunJob` takes a job's function and arguments, calls it in
every process of the job, and returns the result of rank 0.

    python -m cxml.train                      `run_workers`: new processes on this machine
    ray job submit -- python -m cxml.train    `run_on_ray`: Ray Train's workers, anywhere on the cluster
    deepspeed launch/train.py, torchrun, ...  `LaunchedJobs`: the processes that the launcher started
"""

from cxml.launching.choice import RunJob, processes_per_machine, run_job_for
from cxml.launching.launched import LaunchedJobs
from cxml.launching.rank_environment import complete_rank_environment

__all__ = ["LaunchedJobs", "RunJob", "complete_rank_environment", "processes_per_machine", "run_job_for"]
