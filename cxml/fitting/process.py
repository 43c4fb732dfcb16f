"""The process that runs a training from Python: `python -m cxml.fitting.process FILE`, with a config in the file."""

from __future__ import annotations

import sys
import time

from cxml import extras
from cxml.cli import exit_with_message
from cxml.config import Config
from cxml.config_files import load_config
from cxml.console import set_up_logging
from cxml.errors import CxmlError
from cxml.fitting.tables import rows_folder
from cxml.launching import RunJob, run_job_for
from cxml.parallel import run_here
from cxml.pipeline import make_model
from cxml.stopping import stopping_on_signals


def main() -> int:
    """Make data, tree and model of the config. Returns the exit code of `python -m cxml.train`."""
    began = time.monotonic()
    config = load_config(sys.argv[1])
    set_up_logging(is_main=True)
    try:
        with stopping_on_signals(), extras.named():
            has_test = config.data.source.path != rows_folder(config.output)
            make_model(config, _run_job(config), began, has_test=has_test)
    except (CxmlError, KeyboardInterrupt) as error:
        return exit_with_message(error)
    return 0


def _run_job(config: Config) -> RunJob:
    """Run in this process if one is enough."""
    is_alone = config.train.num_workers == 1 and config.train.zero_stage == 0 and config.launch.launcher != "ray"
    return run_here if is_alone else run_job_for(config)


if __name__ == "__main__":
    sys.exit(main())
