"""Start the processes of a training: by this command, Ray Train, or an external launcher.

Input: a job, which is a function with its arguments. A run is a sequence of stages (`cxml.pipeline`); training and
evaluation are jobs of many processes.

A `RunJob` calls the function in every process of the job. The launch methods differ only in how the processes start:

    python -m cxml.train                      `run_workers`: new processes on this machine
    ray job submit -- python -m cxml.train    `run_on_ray`: Ray Train's workers, anywhere on the cluster
    deepspeed launch/train.py, torchrun, ...  `LaunchedJobs`: the processes that the launcher started

Output: the result of rank 0.
"""

from cxml.launching.choice import RunJob, processes_per_machine, run_job_for
from cxml.launching.launched import LaunchedJobs
from cxml.launching.rank_environment import complete_rank_environment

__all__ = ["LaunchedJobs", "RunJob", "complete_rank_environment", "processes_per_machine", "run_job_for"]
