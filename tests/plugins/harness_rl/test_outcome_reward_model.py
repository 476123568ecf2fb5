"""Outcome reward model: read at the last real token, ln 2 at equality, pairs within a problem; it learns to rank."""

import dataclasses
import math

import pytest
import torch

from harness import Completion, Run
from harness.toolbox import scalar_head
from harness_rl.outcome_reward_model import HEAD, OutcomeRewardModel, label_loss, preference_loss


@pytest.fixture
def judge(tiny_model):
    tiny_model.heads[HEAD] = scalar_head(tiny_model, seed=1)
    return tiny_model


def completion(model, text):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens, (0.0,) * len(tokens), "eos")


def test_equal_rewards_cost_ln_2():
    assert preference_loss(torch.ones(3), torch.ones(3)).item() == pytest.approx(math.log(2))
    assert preference_loss(torch.tensor([2.0]), torch.tensor([0.5])).item() == pytest.approx(
        math.log(1 + math.exp(-1.5))
    )


def test_labels_are_told_one_by_one():
    right_B, wrong_B = torch.tensor([2.0, -1.0]), torch.tensor([0.5, -3.0])
    reward_R, label_R = torch.cat([right_B, wrong_B]), torch.tensor([1.0, 1, 0, 0])
    wanted = torch.nn.functional.binary_cross_entropy_with_logits(reward_R, label_R)
    torch.testing.assert_close(label_loss(right_B, wrong_B), wanted)
    assert label_loss(torch.zeros(3), torch.zeros(3)).item() == pytest.approx(math.log(2))
    # a constant more changes it, as a chance is meant; pairs do not feel it
    assert label_loss(right_B + 1, wrong_B + 1) != label_loss(right_B, wrong_B)
    torch.testing.assert_close(preference_loss(right_B + 1, wrong_B + 1), preference_loss(right_B, wrong_B))


def test_a_loss_that_is_unknown_is_refused():
    with pytest.raises(ValueError, match="knows no loss 'hinge', but pairs, labels"):
        OutcomeRewardModel(loss="hinge")


def test_scores_come_one_a_completion_in_order(judge):
    texts = ["A: 2", "A: 33", "A: 4"]
    together = OutcomeRewardModel().score(judge, "1+1?", [completion(judge, t) for t in texts], Run(0))
    alone = [OutcomeRewardModel().score(judge, "1+1?", [completion(judge, t)], Run(0))[0] for t in texts]
    assert [s.total for s in together] == pytest.approx([s.total for s in alone], abs=1e-5)
    assert len({round(s.total, 6) for s in together}) == 3
    assert all(0 < s.total < 1 for s in together)


@pytest.mark.parametrize("loss", ["pairs", "labels"])
def test_it_learns_to_rank(train, tiny_model, toy_data, loss):
    """Right is whatever holds a 7: a random model draws both kinds, and the head must tell them apart."""
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    method = OutcomeRewardModel(loss=loss, samples=16, problems=4, lr=3e-3)
    run = train(method, tokens=60_000, data=data)
    assert run.curve[-1]["ranked"] > 0.8
    assert run.ledger.sampled_tokens > 0
    good, bad = (completion(tiny_model, t) for t in ("A: 3727b", "A: 3323b"))
    scores = method.score(tiny_model, "1+1?", [good, bad], Run(0))
    assert scores[0].total > scores[1].total
    if loss == "labels":
        assert scores[0].total > 0.5 > scores[1].total


def test_the_policy_that_samples_stays_as_it_was(train, toy_data, monkeypatch):
    from harness_rl import outcome_reward_model as module

    seen = []
    real = module.sample_many

    def watch(policy, *args, **kwargs):
        seen.append(policy.fingerprint())
        return real(policy, *args, **kwargs)

    monkeypatch.setattr(module, "sample_many", watch)
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    train(OutcomeRewardModel(samples=8, problems=4), tokens=8000, data=data)
    assert len(seen) > 2
    assert len(set(seen)) == 1
