"""Log-probabilities of 32 worked solutions, without gradients."""

import torch

from harness.toolbox import completion_logprob, encode_pairs
from harness_world import render_target


def test_logprobs(benchmark, tiny, world):
    rows = encode_pairs(tiny, [(p.prompt, render_target(p, rationale=True)) for p in world.test[:32]])
    with torch.no_grad():
        logprob_R = benchmark(completion_logprob, tiny, rows)
    assert (logprob_R < 0).all()
