"""The plain engine equals DeepSpeed without ZeRO bit for bit in fp32, and is closer to fp32 in bf16.

Oracle: DeepSpeed's engine on the same numbers, on one process and on two.
"""

import numpy as np
import pytest
import torch
from support.engines import Job, Model, train_in_engines

from cxml.parallel import run_workers

SETTINGS = {
    "fp32": {},
    "clipped": {"gradient_clipping": 0.05},
    "not clipped": {"gradient_clipping": 0.0},
    "accumulated": {"accumulation": 2, "gradient_clipping": 0.0},  # a power of two: ours are added up, not averaged
    "accumulated and clipped": {"accumulation": 4, "gradient_clipping": 0.05},
}
ONE_EACH, FEW = 1, 250  # elements of a bucket
BF16 = {"precision": "bf16", "accumulation": 6}
STAGES = (1, 2, 3)


@pytest.fixture(scope="module", params=[1, 2], ids=["one process", "two processes"])
def found(request):
    """What each job came to, by name."""
    jobs = {}
    for name, train in SETTINGS.items():
        jobs[name, "plain"] = Job(train)
        jobs[name, "many buckets"] = Job(train, bucket_elements=ONE_EACH)
        jobs[name, "some buckets"] = Job(train, bucket_elements=FEW)
        jobs[name, "DeepSpeed"] = Job(train, is_reference=True)
    jobs["bf16"], jobs["bf16 in DeepSpeed"] = Job(BF16), Job(BF16, is_reference=True)
    jobs["bf16 in fp32"] = Job(BF16 | {"precision": "fp32"})
    jobs["skipped"] = Job({"accumulation": 2}, unsound=(0, 1, 2, 3, 4, 5))
    jobs["bf16, skipped"] = Job(BF16, unsound=(0, 1, 2, 3, 4, 5))
    for stage in (0, *STAGES):
        jobs["bf16", stage] = Job(BF16 | {"zero_stage": stage}, skips_nothing=True)
    jobs["even fp32"] = Job(BF16 | {"precision": "fp32"}, skips_nothing=True)
    results = run_workers(train_in_engines, (list(jobs.values()),), request.param)
    assert all(are_alike for _, are_alike in results), "all ranks have the same weights"
    return {name: weights for name, (weights, _) in zip(jobs, results, strict=True)}


@pytest.mark.parametrize("way", ["plain", "many buckets", "some buckets"])
@pytest.mark.parametrize("name", SETTINGS)
def test_without_zero_the_plain_engine_gives_the_bits_of_deepspeed(found, name, way):
    expected = found[name, "DeepSpeed"]
    for parameter, values in found[name, way].items():
        np.testing.assert_array_equal(values, expected[parameter], parameter)


def distance(found, expected):
    """Between the weights of two trainings, as one vector each."""
    return np.sqrt(sum(np.square(found[name] - expected[name]).sum() for name in expected))


def test_gradients_summed_in_fp32_bring_bf16_nearer_to_fp32_than_deepspeed_without_zero(found):
    fp32 = found["bf16 in fp32"]
    print(distance(found["bf16"], fp32), distance(found["bf16 in DeepSpeed"], fp32))
    assert distance(found["bf16"], fp32) < distance(found["bf16 in DeepSpeed"], fp32)


@pytest.mark.parametrize("stage", STAGES)
def test_bf16_under_zero_is_as_near_to_fp32_as_without(found, stage):
    fp32 = found["even fp32"]
    print(stage, distance(found["bf16", stage], fp32), distance(found["bf16", 0], fp32))
    assert distance(found["bf16", stage], fp32) < 1.1 * distance(found["bf16", 0], fp32)


@pytest.mark.parametrize("name", ["skipped", "bf16, skipped"])
def test_steps_that_are_told_not_to_count_change_no_weight(found, name):
    torch.manual_seed(0)
    dtype = torch.bfloat16 if "bf16" in name else torch.float32
    for parameter, values in Model().to(dtype).state_dict().items():
        np.testing.assert_array_equal(found[name][parameter], values.float(), parameter)
