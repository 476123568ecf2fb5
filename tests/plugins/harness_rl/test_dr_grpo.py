"""Dr. GRPO: no division by the spread, none by a completion's own length. Parity with TRL: test_grpo.py."""

import dataclasses
import math

import pytest
import torch

from harness import Completion, Run
from harness.toolbox import Rollouts, collate, completion_logprob
from harness_rl import dr_grpo
from harness_rl.dr_grpo import DrGRPO, centred_rewards

LONGEST = 20


def says_seven(data):
    return dataclasses.replace(data, verify=lambda problem, text: ("7" in text, text))


def gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.module.parameters()])
    model.module.zero_grad()
    return flat


@pytest.fixture
def one_step(monkeypatch, tiny_model, toy_data):
    """(rows, weights, gradient) of one step on completions of the first problem; no weight is moved."""

    def go(texts, rewards, longest=LONGEST):
        problem = toy_data.problems[0]
        written = [tuple(tiny_model.encode_completion(text)) for text in texts]
        rows = collate(tiny_model, [(tiny_model.encode_prompt(problem.prompt), tokens) for tokens in written])
        drawn = [Completion(text, ids, (0.0,) * len(ids), "eos") for text, ids in zip(texts, written, strict=True)]
        given = Rollouts([problem], drawn, rows, torch.tensor(rewards), len(texts))
        seen = []
        real = dr_grpo.policy_gradient
        with monkeypatch.context() as patch:
            patch.setattr(dr_grpo, "roll_out", lambda *args: given)
            patch.setattr(dr_grpo, "policy_gradient", lambda *args: seen.append(args[3]) or real(*args))
            patch.setattr(dr_grpo, "update", lambda optimizer: seen.append(gradient(tiny_model)))
            run = Run(0, budget=1, max_new_tokens=longest)
            run.watch(tiny_model)  # so that the first batch spends the budget
            DrGRPO(samples=len(texts)).train(tiny_model, toy_data, run)
            run.close()
        return rows, *seen

    return go


def test_advantages_by_hand():
    """Of [1, 0, 0, 0] and of [1, 1, 1, 0]: the rare sample is not blown up by the spread of its group."""
    advantage = centred_rewards(torch.tensor([[1.0, 0.0, 0.0, 0.0], [1.0, 1.0, 1.0, 0.0], [1.0, 1.0, 1.0, 1.0]]))
    assert advantage.tolist() == [[0.75, -0.25, -0.25, -0.25], [0.25, 0.25, 0.25, -0.75], [0.0] * 4]
    assert centred_rewards(torch.tensor([[10.0, 0.0]])).tolist() == [[5.0, -5.0]]  # the scale of the reward stays


def test_every_token_weighs_one_over_rows_times_the_longest_allowed(one_step, tiny_model):
    """1/(2 x 20), whatever the lengths; the gradient is that of - sum_i A_i log P(y_i) / 40, A = +- 1/2."""
    rows, weight, found = one_step(["A: 2", "T: 1+1=2. A: 7"], [1.0, 0.0])
    assert weight.tolist() == pytest.approx([1 / 40, 1 / 40])
    (-(completion_logprob(tiny_model, rows) * torch.tensor([0.5, -0.5])).sum() / 40).backward()
    torch.testing.assert_close(found, gradient(tiny_model), rtol=1e-4, atol=1e-7)


def test_a_longer_neighbour_changes_no_weight_and_a_longer_limit_does(one_step):
    """GRPO's weights are 1/|y|, DAPO's 1/sum|y|: both would move."""
    short, long = one_step(["A: 2", "no"], [1.0, 0.0])[1], one_step(["A: 2", "no" * 9], [1.0, 0.0])[1]
    assert torch.equal(short, long)
    assert one_step(["A: 2", "no"], [1.0, 0.0], longest=2 * LONGEST)[1].tolist() == pytest.approx([1 / 80] * 2)


def test_of_equal_rewards_nothing_is_learnt_and_the_share_is_logged(train, tiny_model, toy_data):
    """Rewards that differ between problems, never within: were groups not the sampler's, something would be learnt."""
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (problem.id in {"p0", "p1", "p2"}, text))
    before = tiny_model.fingerprint()
    run = train(DrGRPO(), data=data)
    assert tiny_model.fingerprint() == before
    assert {point["wasted"] for point in run.curve} == {1.0}
    assert run.ledger.trained_tokens == 0


def test_it_learns_what_is_rewarded(train, toy_data):
    run = train(DrGRPO(lr=3e-3), tokens=25_000, data=says_seven(toy_data))
    rewards = [point["reward"] for point in run.curve]
    assert sum(rewards[-3:]) / 3 > 2 * sum(rewards[:3]) / 3
    assert run.curve[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert run.curve[4]["kl"] > 0
    assert run.curve[-2]["tokens"] < 25_000


def test_the_same_seed_gives_the_same_curve(train, make_model, toy_data):
    runs = [train(DrGRPO(), data=says_seven(toy_data), model=make_model()) for _ in range(2)]
    first, second = ([{k: v for k, v in p.items() if k != "seconds"} for p in run.curve] for run in runs)
    assert first == second


def test_bad_input_is_named(train, toy_data):
    with pytest.raises(ValueError, match="samples of dr-grpo must be at least 2, not 1"):
        DrGRPO(samples=1)
    with pytest.raises(ValueError, match="problem p3 is nan"):
        train(DrGRPO(), data=dataclasses.replace(toy_data, verify=lambda p, t: (math.nan if p.id == "p3" else 0.0, t)))
