"""Memory over a long run on processors."""

from __future__ import annotations

from cxml.checkpoint import Progress
from cxml.operating_system import return_free_memory
from cxml.training.loop import Callback

_EVERY_STEPS = 50


class ReturnMemory(Callback):
    """Gives the system back what steps have freed.

    Batches differ in size, so what one step frees the next one can use in parts only: the process would grow for
    thousands of steps.
    """

    def on_step_end(self, progress: Progress) -> None:
        """Every 50 steps."""
        if progress.step % _EVERY_STEPS == 0:
            return_free_memory()
