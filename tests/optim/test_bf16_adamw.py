"""The compiled AdamW step over bf16 weights equals `torch.optim.AdamW` over their fp32 copies."""

import pytest
import torch

from cxml.optim.bf16_adamw import norm_of, take_step

SHAPES = [(3,), (1025,), (70, 1000), (300, 1000)]  # less than a block, more; more than a chunk, than one thread does


def make(shapes):
    weights = [torch.randn(shape).bfloat16() for shape in shapes]
    copies = [weight.float().requires_grad_() for weight in weights]
    groups = [{"params": copies[:1], "weight_decay": 0.0}, {"params": copies[1:], "weight_decay": 0.05}]
    return weights, copies, torch.optim.AdamW(groups, lr=1e-3, betas=(0.95, 0.999), eps=1e-8)


@pytest.mark.parametrize("factor", [1.0, 0.25])
def test_it_takes_the_steps_of_torch(factor):
    torch.manual_seed(0)
    weights, copies, optimizer = make(SHAPES)
    torch.manual_seed(0)
    _, expected, reference = make(SHAPES)
    for step in range(5):
        for group in (*optimizer.param_groups, *reference.param_groups):
            group["lr"], group["betas"] = 1e-3 * (step + 1), (0.95 - step / 100, 0.999)
        gradients = [torch.randn(shape).bfloat16() for shape in SHAPES]
        for copy, gradient in zip(expected, gradients, strict=True):
            copy.grad = gradient.float() * factor
        reference.step()
        take_step(optimizer, dict(zip(copies, zip(weights, gradients, strict=True), strict=True)), factor)
    for copy, weight, other in zip(copies, weights, expected, strict=True):
        torch.testing.assert_close(copy, other, rtol=1e-5, atol=1e-7)
        for name in ("exp_avg", "exp_avg_sq"):
            torch.testing.assert_close(optimizer.state[copy][name], reference.state[other][name], rtol=1e-5, atol=1e-9)
        assert optimizer.state[copy]["step"] == 5
        assert torch.equal(weight, copy.detach().bfloat16())


def test_the_norm_is_that_of_all_gradients_and_tells_of_numbers_that_are_not_finite():
    torch.manual_seed(0)
    gradients = [torch.randn(shape).bfloat16() for shape in SHAPES]
    expected = torch.cat([gradient.double().flatten() for gradient in gradients]).norm()
    assert float(norm_of(gradients)) == pytest.approx(float(expected), rel=1e-5)
    for wrong in (float("nan"), float("inf")):
        gradients[-1][-1, -1] = wrong
        assert not norm_of(gradients).isfinite()
