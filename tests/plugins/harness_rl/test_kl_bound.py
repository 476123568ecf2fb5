"""Every method that learns from its own rollouts ends where its policy has run away from the start."""

import dataclasses

import pytest

from harness import Run
from harness_rl.adaptive_reward_rl import AdaptiveRewardRL
from harness_rl.dapo import DAPO
from harness_rl.dr_grpo import DrGRPO
from harness_rl.grpo import GRPO
from harness_rl.oreo import OREO
from harness_rl.ppo import PPO
from harness_rl.reasoning_rl import ReasoningRL
from harness_rl.rlaif import RLAIF
from harness_rl.rlhf import RLHF
from harness_rl.trpo import TRPO

GROUPS = [GRPO(), DrGRPO(), DAPO(), TRPO(), ReasoningRL(), PPO(), AdaptiveRewardRL()]
ONLINE = [*GROUPS, OREO(), RLHF(judge_share=0.1), RLAIF()]
SMALL = {"problems": 4, "samples": 4}


@pytest.mark.parametrize("method", ONLINE, ids=lambda method: method.name)
def test_training_ends_where_the_kl_is_above_the_bound(method, train, judge, toy_data, monkeypatch):
    """No KL is below the bound of this test, so that the first one that is measured ends the run."""
    monkeypatch.setattr("harness.toolbox.rollouts.KL_BOUND", -1.0)
    monkeypatch.setattr(Run, "model", lambda run, name: judge)  # of those whose reward is another model's
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    small = {name: SMALL[name] for name in SMALL if hasattr(method, name)}
    run = train(dataclasses.replace(method, **small), tokens=400_000, data=data)
    assert "above -1" in run.stopped
    assert run.spent < 400_000
