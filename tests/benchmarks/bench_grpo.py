"""One update of GRPO on 2 problems with 8 completions each; what they are was drawn before (`bench_sampling`)."""

import dataclasses

from harness import Run
from harness.toolbox import roll_out
from harness_rl import grpo


def longer_than_most(_, completion):
    """A reward that differs within a group, whatever the model can do."""
    return float(len(completion.tokens) % 2)


def test_grpo(benchmark, one_step, tiny, world, monkeypatch):
    data = world.training()
    few = dataclasses.replace(data, problems=data.problems[:2])
    rollouts = roll_out(tiny, few.problems, Run(7, max_new_tokens=32), 8, longer_than_most)
    monkeypatch.setattr(grpo, "roll_out", lambda *_: rollouts)
    run = benchmark(one_step, grpo.GRPO(problems=2, samples=8), few)
    assert run.curve[0]["wasted"] == 0
