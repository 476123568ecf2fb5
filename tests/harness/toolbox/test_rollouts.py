"""Rollouts and the policy-gradient step: order, rewards, ratios, and whose gradient it is."""

import dataclasses
import math
from typing import ClassVar

import pytest
import torch

from harness import Completion, Run
from harness.meter import BudgetSpentError
from harness.toolbox import (
    Rollouts,
    clipped_surrogate,
    coin,
    collate,
    contrasts,
    drift,
    frozen_copy,
    hold,
    kl_estimate,
    old_logprobs,
    policy_gradient,
    random_reward_twin,
    roll_out,
    token_logprobs,
    verified,
)
from harness.toolbox.rollouts import DRIFT_EVERY

PAIRS = [([1, 5, 6, 7], [8, 9, 2]), ([1, 5], [9, 2]), ([1, *range(30, 36)], [2]), ([1, 6], [7, 8, 9, 10, 11, 2])]


def gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.module.parameters()])
    model.module.zero_grad()
    return flat


def test_rollouts_stand_problem_after_problem(tiny_model, toy_data):
    run = Run(3, budget=10_000, max_new_tokens=8)
    rollouts = roll_out(tiny_model, toy_data.problems[:3], run, 2, lambda p, c: float(p.id[1:]) + len(c.tokens) / 100)
    assert rollouts.by_problem(rollouts.rewards).floor().tolist() == [[0, 0], [1, 1], [2, 2]]
    lengths = [len(c.tokens) for c in rollouts.completions]
    assert rollouts.lengths.tolist() == lengths
    assert rollouts.facts()["length"] == pytest.approx(sum(lengths) / 6)
    assert rollouts.facts()["cut"] == sum(c.finish == "length" for c in rollouts.completions) / 6
    for number, row in enumerate(rollouts.completions):
        ids = rollouts.sequences.input_ids[number][rollouts.sequences.completion_mask[number]]
        assert ids.tolist() == list(row.tokens)
    run.budget = 1
    with pytest.raises(BudgetSpentError):
        roll_out(tiny_model, toy_data.problems, run, 2, verified(toy_data))


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_reward_that_is_no_number_names_its_problem(tiny_model, toy_data, value):
    run = Run(3, budget=10_000, max_new_tokens=4)
    with pytest.raises(ValueError, match="problem p1 is"):
        roll_out(tiny_model, toy_data.problems, run, 2, lambda p, _: value if p.id == "p1" else 0.0)


def test_the_coin_knows_nothing_and_falls_the_same_way_again(toy_data):
    falls = [[reward(p, None) for p in toy_data.problems * 20] for reward in (coin(Run(1)), coin(Run(1)), coin(Run(2)))]
    assert falls[0] == falls[1] != falls[2]
    assert set(falls[0]) == {0.0, 1.0}
    assert 0.35 < sum(falls[0]) / len(falls[0]) < 0.65


def test_a_prompt_that_is_read_once_for_all_samples_counts_once_in_the_budget(tiny_model, toy_data):
    run = Run(3, budget=10_000, max_new_tokens=4)
    rollouts = roll_out(tiny_model, toy_data.problems[:1], run, 8, verified(toy_data))
    prompt = len(tiny_model.encode_prompt(toy_data.problems[0].prompt))
    assert run.spent == prompt + sum(len(c.tokens) for c in rollouts.completions)
    assert run.ledger.prompt_tokens == 8 * prompt


def test_the_surrogate_by_hand():
    ratio, advantage = torch.tensor([[0.5, 1.0, 1.5]]), torch.tensor([[1.0], [-1.0]])
    value = clipped_surrogate(ratio.log().expand(2, 3), torch.zeros(2, 3), advantage, 0.2, 0.28)
    torch.testing.assert_close(value, torch.tensor([[0.5, 1.0, 1.28], [-0.8, -1.0, -1.5]]))


@pytest.mark.usefixtures("small_groups")
def test_fresh_rows_have_the_gradient_of_their_log_probabilities(any_model, plain_logprobs, apart):
    rows = collate(any_model, PAIRS * 3)
    advantage, weight = torch.tensor([[1.0], [-2.0], [0.0], [0.5]]).repeat(3, 1), torch.linspace(0.1, 1.2, 12)
    facts = policy_gradient(any_model, rows, advantage, weight)
    found = gradient(any_model)
    logprob_RT = plain_logprobs(any_model, rows)  # of rows without advantage as well, which were not read
    (-(weight[:, None] * advantage * logprob_RT).sum()).backward()
    assert apart(found, gradient(any_model)) <= 1e-5
    assert facts["entropy"] == pytest.approx(-float((logprob_RT.detach() * (advantage != 0)).sum()) / 33, rel=1e-4)
    assert facts["clipped"] == 0


@pytest.mark.usefixtures("small_groups")
def test_rows_of_an_older_policy_have_the_gradient_of_eq_7_over_all_of_them_at_once(
    tiny_model, make_model, plain_logprobs, apart
):
    """The other policy is so far away that ratios leave the clip on both sides."""
    rows, weight = collate(tiny_model, PAIRS * 3), torch.linspace(0.1, 1.2, 12)
    sign_R = torch.tensor([1, -2, 0, 0.5, -1, 1, 0, -0.5, 0.5, 2, 0, -1])
    advantage_RT = sign_R[:, None] * torch.linspace(0.5, 1.5, rows.input_ids.shape[1])
    old_RT = old_logprobs(make_model(seed=1, sharpness=0.1), rows)
    facts = policy_gradient(tiny_model, rows, advantage_RT, weight, old_RT=old_RT, clip=(0.2, 0.3))
    found = gradient(tiny_model)
    ratio_RT = (plain_logprobs(tiny_model, rows) - old_RT).exp()
    gain_RT = torch.min(ratio_RT * advantage_RT, ratio_RT.clamp(0.8, 1.3) * advantage_RT)
    (-(weight[:, None] * gain_RT * rows.completion_mask).sum()).backward()
    assert apart(found, gradient(tiny_model)) <= 1e-5
    learnt = ratio_RT[rows.completion_mask & (sign_R != 0)[:, None]]
    assert learnt.min() < 0.8
    assert learnt.max() > 1.3
    assert facts["clipped"] == pytest.approx(float(((learnt < 0.8) | (learnt > 1.3)).float().mean()))


def test_old_log_probabilities_put_the_clip_to_work(tiny_model):
    rows = collate(tiny_model, PAIRS)
    advantage, weight = torch.ones(4, 1), torch.full((4,), 0.25)
    old_RT = old_logprobs(tiny_model, rows)
    with torch.no_grad():
        torch.testing.assert_close(old_RT, token_logprobs(tiny_model, rows))
    assert policy_gradient(tiny_model, rows, advantage, weight, old_RT=old_RT)["clipped"] == 0
    fresh = gradient(tiny_model)
    policy_gradient(tiny_model, rows, advantage, weight)
    torch.testing.assert_close(fresh, gradient(tiny_model))
    # As if every token had become twice as likely: nothing more is to be had from an advantage above 0.
    facts = policy_gradient(tiny_model, rows, advantage, weight, old_RT=old_RT - math.log(2) * rows.completion_mask)
    assert facts["clipped"] == 1
    assert not gradient(tiny_model).any()
    policy_gradient(tiny_model, rows, -advantage, weight, old_RT=old_RT - math.log(2) * rows.completion_mask)
    torch.testing.assert_close(gradient(tiny_model), -2 * fresh, rtol=1e-4, atol=1e-6)


def test_advantages_may_differ_from_token_to_token(tiny_model):
    rows = collate(tiny_model, PAIRS)
    advantage_RT = torch.zeros(rows.completion_mask.shape)
    advantage_RT[3, 4] = 2.0  # the third token of the last completion
    policy_gradient(tiny_model, rows, advantage_RT, torch.ones(4))
    found = gradient(tiny_model)
    (-2 * token_logprobs(tiny_model, rows)[3, 4]).backward()
    torch.testing.assert_close(found, gradient(tiny_model), rtol=1e-4, atol=1e-6)


def test_without_any_advantage_nothing_is_read(tiny_model):
    run = Run(0)
    run.watch(tiny_model)
    assert policy_gradient(tiny_model, collate(tiny_model, PAIRS), torch.zeros(4, 1), torch.ones(4)) == {}
    assert run.spent == 0
    assert all(p.grad is None for p in tiny_model.module.parameters())


def test_the_kl_estimate_is_zero_at_the_reference_and_never_below(tiny_model, toy_data):
    policy, reference = torch.tensor([[-1.0, -2.0, -90.0]]), torch.tensor([[-1.0, -1.0, -1.0]])
    estimate = kl_estimate(policy, reference)
    torch.testing.assert_close(estimate[0, :2], torch.tensor([0.0, math.e - 2]))
    assert torch.isfinite(estimate).all()
    assert (estimate >= 0).all()
    run = Run(3, budget=10_000, max_new_tokens=8)
    rollouts = roll_out(tiny_model, toy_data.problems[:2], run, 4, verified(toy_data))
    start = frozen_copy(tiny_model)
    assert drift(tiny_model, start, rollouts, 0, run)["kl"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in start.module.parameters():
            parameter.mul_(1.2)
    assert drift(tiny_model, start, rollouts, DRIFT_EVERY, run)["kl"] > 1e-3
    assert drift(tiny_model, start, rollouts, DRIFT_EVERY + 1, run) == {}


def test_a_policy_that_ran_away_ends_its_training():
    run = Run(3, budget=1000)
    hold(run, 0.99)
    assert (run.stopped, run.left) == (None, 1000)
    seen = []
    for batch in run.batches([1, 2, 3, 4], 2):
        seen += batch
        hold(run, 1.5)
    assert len(seen) == 2
    assert (run.stopped, run.left) == ("the KL to the start was 1.50 nats a token, above 1", 0)


# -- contrasts


def test_right_is_set_against_wrong_within_a_problem_and_no_completion_twice(tiny_model, toy_data):
    texts = ["7", "7", "77", "no", "777", "x", "", "z"], ["no"] * 8, ["7", "n", "o", "p", "q", "r", "s", "n"]
    drawn = [
        Completion(text, tuple(tiny_model.encode_completion(text)) if text else (), (), "eos")
        for of_one in texts
        for text in of_one
    ]
    sequences = collate(tiny_model, [([1, 5], c.tokens or (2,)) for c in drawn])
    rewards = torch.tensor([float("7" in c.text) for c in drawn])
    found = contrasts(Rollouts(toy_data.problems[:3], drawn, sequences, rewards, 8), 2)
    assert [tuple(drawn[row].text for row in pair) for pair in found] == [("7", "no"), ("77", "x"), ("7", "n")]
    assert [pair[0] // 8 for pair in found] == [pair[1] // 8 for pair in found] == [0, 0, 2]


# -- twins


@dataclasses.dataclass(frozen=True)
class Learner:
    """Learns nothing."""

    name: ClassVar[str] = "learner"
    family: ClassVar[str] = "reinforcement-learning"
    samples: int = 3

    def reward(self, data, run):
        return verified(data)

    def label(self, data, run):
        return verified(data)


@pytest.mark.parametrize(("decides", "other"), [("reward", "label"), ("label", "reward")])
def test_a_twin_is_the_same_class_with_a_coin(toy_data, decides, other):
    twin = random_reward_twin(Learner, decides=decides)
    assert (twin.name, twin.family, twin.__name__) == ("learner-random-reward", "control", "LearnerRandomReward")
    assert dataclasses.asdict(twin(samples=5)) == {"samples": 5}
    assert twin.__module__ == Learner.__module__  # whose source says what it does
    never = dataclasses.replace(toy_data, verify=lambda problem, text: (False, None))
    problem, said = toy_data.problems[0], Completion("x", (1,), (0.0,), "eos")
    toss, judge = (getattr(twin(), name)(never, Run(1)) for name in (decides, other))
    assert {toss(problem, said) for _ in range(20)} == {0.0, 1.0}
    assert {judge(problem, said) for _ in range(20)} == {0.0}
    assert (Learner.name, Learner.family) == ("learner", "reinforcement-learning")
