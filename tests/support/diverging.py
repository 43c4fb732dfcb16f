"""Trainings whose numbers become NaN or infinite, several of them in one process group."""

import torch

from support.runs import FINGERPRINTS


def train_until_it_fails(jobs):
    """Train each (config, step, part) in turn. In step number `step`, a part of the encoder becomes NaN; 0: never.

    The part is "weight", which changes after the step, or "gradient".

    Returns, by job and rank, the name of the error's type and its text, or None without an error.
    """
    from cxml.errors import CxmlError
    from cxml.parallel import distributed
    from cxml.training import loop
    from cxml.training.train_job import train_in_group

    plain_step = loop.train_step
    found = []
    with distributed(threads=1) as ranks:
        for config, poisoned_step, part in jobs:
            loop.train_step = _poisoning(plain_step, poisoned_step, part)
            try:
                train_in_group(config, FINGERPRINTS, ranks)
                own = None
            except CxmlError as error:
                own = type(error).__name__, str(error)
            everyone = [None] * ranks.world_size
            torch.distributed.all_gather_object(everyone, own)
            found.append(everyone)
    return found


def _poisoning(step, number, part):
    def stepping(engine, micro_batches, ranks, current):
        if current == number and part == "gradient":
            next(engine.module.encoder.parameters()).register_hook(lambda gradient: gradient * torch.nan)
        losses = step(engine, micro_batches, ranks, current)
        if current == number and part == "weight":
            with torch.no_grad():
                next(engine.module.encoder.parameters()).view(-1)[0] = torch.nan
        return losses

    return stepping
