"""Outcome reward model: read at the last real token, ln 2 at equality, pairs within a problem; it learns to rank."""

import dataclasses
import math

import pytest
import torch

from harness import Completion, Run
from harness.toolbox import collate
from harness_rl.outcome_reward_model import HEAD, OutcomeRewardModel, preference_loss, reward_head, rewards


@pytest.fixture
def judge(tiny_model):
    tiny_model.heads[HEAD] = reward_head(tiny_model.size.width, seed=1)
    return tiny_model


def completion(model, text):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens, (0.0,) * len(tokens), "eos")


def test_equal_rewards_cost_ln_2():
    assert preference_loss(torch.ones(3), torch.ones(3)).item() == pytest.approx(math.log(2))
    assert preference_loss(torch.tensor([2.0]), torch.tensor([0.5])).item() == pytest.approx(
        math.log(1 + math.exp(-1.5))
    )


def test_the_reward_is_read_at_the_last_real_token(judge):
    """Beside a longer row a short one is padded; its reward must not notice."""
    prompt = judge.encode_prompt("1+1?")
    short, long = judge.encode_completion("A: 2"), judge.encode_completion("A: 22222222222222")
    alone = rewards(judge, collate(judge, [(prompt, short)]))
    beside = rewards(judge, collate(judge, [(prompt, short), (prompt, long)]))
    assert torch.allclose(alone[0], beside[0], atol=1e-5)
    hidden = judge.module(torch.tensor([prompt + short]), output_hidden_states=True).hidden_states[-1][0, -1]
    assert torch.allclose(alone[0], judge.heads[HEAD](hidden)[0], atol=1e-5)


def test_scores_come_one_a_completion_in_order(judge):
    texts = ["A: 2", "A: 33", "A: 4"]
    together = OutcomeRewardModel().score(judge, "1+1?", [completion(judge, t) for t in texts], Run(0))
    alone = [OutcomeRewardModel().score(judge, "1+1?", [completion(judge, t)], Run(0))[0] for t in texts]
    assert [s.total for s in together] == pytest.approx([s.total for s in alone], abs=1e-5)
    assert len({round(s.total, 6) for s in together}) == 3


def test_pairs_are_right_against_wrong_of_the_same_problem(judge, toy_data):
    problem, other = toy_data.problems[:2]
    drawn = [
        (problem, [completion(judge, t) for t in ("A: 1", "A: 1", "A: 7", "A: 8", "x A: 1")]),
        (other, [completion(judge, t) for t in ("A: 7", "A: 9")]),  # never right: nothing to compare
    ]
    right, wrong = OutcomeRewardModel(pairs=3).draw_pairs(judge, toy_data, drawn, Run(0))
    said = [[judge.decode(tokens) for _, tokens in side] for side in (right, wrong)]
    assert sorted(said[0]) == ["A: 1", "x A: 1"]  # the double is one completion
    assert sorted(said[1]) == ["A: 7", "A: 8"]
    assert {tuple(prompt) for prompt, _ in right + wrong} == {tuple(judge.encode_prompt(problem.prompt))}


def test_it_learns_to_rank(train, tiny_model, toy_data):
    """Right is whatever holds a 7: a random model draws both kinds, and the head must tell them apart."""
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    method = OutcomeRewardModel(samples=16, problems=4, lr=3e-3)
    run = train(method, tokens=60_000, data=data)
    assert run.curve[-1]["ranked"] > 0.8
    assert run.ledger.sampled_tokens > 0
    good, bad = (completion(tiny_model, t) for t in ("A: 3727b", "A: 3323b"))
    scores = method.score(tiny_model, "1+1?", [good, bad], Run(0))
    assert scores[0].total > scores[1].total


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
