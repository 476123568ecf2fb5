"""PPO: the advantage by hand and by numpy, clips, where the score lands, what the policy drew stays; controls."""

import dataclasses
import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Completion, Run
from harness.toolbox import collate, hidden_states, token_logprobs
from harness_rl import ppo
from harness_rl.ppo import (
    HEAD,
    PPO,
    PPORandomReward,
    gae,
    learn_values,
    minibatches,
    new_critic,
    old_values,
    token_rewards,
    value_loss,
    values,
    whiten,
)

PAIRS = [([1, 5, 6, 7], [8, 9, 2]), ([1, 5], [9, 2]), ([1, *range(30, 36)], [2]), ([1, 6], [7, 8, 9, 10, 11, 2])]


def numpy_gae(rewards, values, mask, gamma, lam):
    """Row by row, as the sum of discounted errors: sum_k (gamma lambda)^k delta_{t+k}."""
    advantages = np.zeros_like(values)
    for row in range(len(values)):
        steps = np.flatnonzero(mask[row])
        after = np.append(values[row, steps[1:]], 0.0)
        errors = rewards[row, steps] + gamma * after - values[row, steps]
        for place, step in enumerate(steps):
            rest = errors[place:]
            advantages[row, step] = (rest * (gamma * lam) ** np.arange(len(rest))).sum()
    return advantages


def random_head(critic):
    torch.nn.init.normal_(critic.heads[HEAD].weight, generator=torch.Generator().manual_seed(1))
    return critic


def test_gae_of_four_steps_by_hand():
    reward, value = torch.tensor([[0.0, 0.0, 0.0, 1.0]]), torch.tensor([[0.2, 0.4, 0.4, 0.6]])
    # delta: 0 + .5*.4 - .2 = 0; 0 + .5*.4 - .4 = -.2; 0 + .5*.6 - .4 = -.1; 1 + 0 - .6 = .4, and gamma lambda = .25
    # A: .4; -.1 + .1 = 0; -.2 + 0 = -.2; 0 - .05 = -.05
    advantage, returns = gae(reward, value, torch.ones(1, 4, dtype=torch.bool), 0.5, 0.5)
    torch.testing.assert_close(advantage, torch.tensor([[-0.05, -0.2, 0.0, 0.4]]))
    torch.testing.assert_close(returns, torch.tensor([[0.15, 0.2, 0.4, 1.0]]))


def test_gae_of_two_rows_of_four_steps_with_a_reward_on_each_token():
    mask = torch.tensor([[False, True, True, True], [True, True, False, False]])
    reward, value = torch.full((2, 4), 1.0), torch.full((2, 4), 0.5)
    # gamma 1, lambda .5. A last token: 1 - .5 = .5; one before it: (1 + .5 - .5) + .5 * .5 = 1.25; then 1 + .625
    advantage, _ = gae(reward, value, mask, 1.0, 0.5)
    torch.testing.assert_close(advantage, torch.tensor([[0.0, 1.625, 1.25, 0.5], [1.25, 0.5, 0.0, 0.0]]))


@pytest.mark.parametrize(("gamma", "lam"), [(1.0, 0.95), (0.9, 0.5), (1.0, 0.0), (0.99, 1.0)])
def test_gae_is_numpys_and_padding_does_not_leak(gamma, lam):
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(5, 9, generator=generator) for _ in range(2))
    mask = torch.zeros(5, 9, dtype=torch.bool)
    for row, (first, last) in enumerate([(0, 9), (2, 6), (8, 9), (3, 9), (1, 2)]):
        mask[row, first:last] = True
    advantage, returns = gae(reward, value, mask, gamma, lam)
    expected = numpy_gae(reward.numpy(), value.numpy(), mask.numpy(), gamma, lam)
    np.testing.assert_allclose(advantage.numpy(), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(returns.numpy(), np.where(mask, expected + value.numpy(), 0), rtol=1e-5, atol=1e-6)
    for filth in (math.nan, 1e9):
        dirty = gae(reward.masked_fill(~mask, filth), value.masked_fill(~mask, filth), mask, gamma, lam)
        assert torch.equal(dirty[0], advantage)
        assert torch.equal(dirty[1], returns)


def test_with_gamma_and_lambda_1_the_advantage_is_what_is_still_to_come_minus_v():
    generator = torch.Generator().manual_seed(0)
    reward, value = (torch.randn(3, 6, generator=generator) for _ in range(2))
    advantage, returns = gae(reward, value, torch.ones(3, 6, dtype=torch.bool), 1.0, 1.0)
    to_come = reward.flip(1).cumsum(1).flip(1)
    torch.testing.assert_close(returns, to_come)
    torch.testing.assert_close(advantage, to_come - value)


def test_whitening_by_hand():
    mask = torch.tensor([[True, True, False], [True, True, False]])
    value = torch.tensor([[1.0, 3.0, 99.0], [5.0, 7.0, math.nan]])
    # mean 4, variance (9 + 1 + 1 + 9) / 4 = 5
    expected = torch.tensor([[-3.0, -1.0, 0.0], [1.0, 3.0, 0.0]]) / math.sqrt(5)
    torch.testing.assert_close(whiten(value, mask), expected)
    assert not whiten(torch.full((2, 3), 0.7), mask).any()  # nothing to choose between
    assert not whiten(torch.tensor([[4.0]]), torch.tensor([[True]])).any()
    assert not whiten(value, torch.zeros(2, 3, dtype=torch.bool)).any()  # no completion fitted the context


def test_the_value_loss_by_hand():
    value, old = torch.tensor([[0.5, 0.1, 0.9, 0.0]]), torch.zeros(1, 4)
    returns = torch.tensor([[1.0, 1.0, 0.0, 0.3]])
    # held at .2, .1, .2, 0: the larger of (.5, .8), (.9, .9), (.9, .2), (.3, .3), squared, halved
    torch.testing.assert_close(value_loss(value, old, returns, 0.2), torch.tensor([[0.64, 0.81, 0.81, 0.09]]) / 2)
    torch.testing.assert_close(value_loss(value, old, returns, math.inf), (value - returns) ** 2 / 2)


def test_a_value_that_has_moved_by_the_clip_moves_no_further_towards_its_return():
    value = torch.tensor([[0.5, -0.5]], requires_grad=True)
    value_loss(value, torch.zeros(1, 2), torch.ones(1, 2), 0.2).sum().backward()
    torch.testing.assert_close(value.grad, torch.tensor([[0.0, -1.5]]))  # too far is free to come back


def test_the_score_lands_on_the_last_token_and_the_kl_on_all():
    mask = torch.tensor([[False, True, True, False], [False, False, True, True], [False, False, False, False]])
    k1 = torch.tensor([[9.0, 1.0, -2.0, 9.0], [9.0, 9.0, 3.0, 0.0], [9.0, 9.0, 9.0, 9.0]])
    found = token_rewards(torch.tensor([1.0, -1.0, 1.0]), k1, mask, 0.1)
    expected = torch.tensor([[0.0, -0.1, 1.2, 0.0], [0.0, 0.0, -0.3, -1.0], [0.0, 0.0, 0.0, 0.0]])
    torch.testing.assert_close(found, expected)


def test_v_is_read_before_its_token_and_padding_changes_nothing(any_model):
    critic, rows = random_head(new_critic(any_model)), collate(any_model, PAIRS)
    value_RT = old_values(critic, rows)
    torch.testing.assert_close(value_RT, values(critic, rows).detach())
    assert not value_RT[~rows.completion_mask].any()
    for number, (prompt, completion) in enumerate(PAIRS):
        alone = collate(any_model, [(prompt, completion)])
        every = hidden_states(critic, alone, torch.ones_like(alone.completion_mask))
        by_hand = critic.heads[HEAD](every).squeeze(-1)[len(prompt) - 1 : -1]  # `eos` itself has none
        found = value_RT[number, len(prompt) : len(prompt) + len(completion)]
        torch.testing.assert_close(found, by_hand.detach(), rtol=1e-4, atol=1e-5)


def test_the_critic_begins_at_0_and_learns_its_returns(tiny_model):
    critic, rows = new_critic(tiny_model), collate(tiny_model, PAIRS)
    assert not old_values(critic, rows).any()
    assert HEAD not in tiny_model.heads
    optimizer = torch.optim.AdamW(critic.parameters(), lr=5e-3)
    aim = torch.tensor([[1.0], [0.0], [-1.0], [0.5]]) * rows.completion_mask
    half = rows.select(torch.tensor([1, 3]))  # the index leads to rows 1 and 3 of the tensors
    loss = learn_values(critic, half, torch.zeros_like(aim), aim, math.inf)
    assert loss == pytest.approx(0.5 * 6 * 0.25 / 8)
    for _ in range(60):
        optimizer.step()
        optimizer.zero_grad()
        learn_values(critic, rows, torch.zeros_like(aim), aim, math.inf)
    assert (old_values(critic, rows) - aim).abs().max() < 0.2


@pytest.mark.usefixtures("small_groups")
def test_the_critics_gradient_is_that_of_the_whole_batch(any_model, apart):
    critic, rows = random_head(new_critic(any_model)), collate(any_model, PAIRS * 3)
    noise = torch.randn(2, *rows.input_ids.shape, generator=torch.Generator().manual_seed(0))
    hidden_RTD = critic.module(rows.input_ids, rows.attention_mask, output_hidden_states=True).hidden_states[-1]
    value_RT = F.pad(critic.heads[HEAD](hidden_RTD).squeeze(-1)[:, :-1], (1, 0))  # before its token
    old_RT, return_RT = value_RT.detach() + 0.3 * noise[0], noise[1]
    held_RT = old_RT + (value_RT - old_RT).clamp(-0.2, 0.2)
    (0.5 * torch.max((value_RT - return_RT) ** 2, (held_RT - return_RT) ** 2)[rows.completion_mask].mean()).backward()
    learnt = [p for p in critic.parameters() if p.grad is not None]
    expected = torch.cat([p.grad.flatten() for p in learnt])
    for parameter in learnt:
        parameter.grad = None
    learn_values(critic, rows, old_RT, return_RT, 0.2)
    assert apart(torch.cat([p.grad.flatten() for p in learnt]), expected) <= 1e-5


def test_minibatches_hold_every_row_once_an_epoch(tiny_model):
    rows = collate(tiny_model, [*PAIRS, ([1, 2], [3] * 200)])  # the last does not fit: no token to learn
    parts = list(minibatches(rows, 2, [3, 4]))
    assert sorted(i for part in parts for i in part.index.tolist() if i != 4) == sorted([0, 1, 2, 3] * 2)
    again = list(minibatches(rows, 2, [3, 4]))
    assert [part.index.tolist() for part in parts] == [part.index.tolist() for part in again]
    orders = {tuple(part.index.tolist()) for part in minibatches(rows, 2, list(range(9)))}
    assert len(orders) > 4  # another order each epoch
    for part in parts:
        for place, row in enumerate(part.index.tolist()):
            width = part.input_ids.shape[1]
            assert torch.equal(part.input_ids[place], rows.input_ids[row, :width])
    assert len(list(minibatches(rows, 99, [0]))) == 4


def test_what_is_cut_at_the_limit_scores_the_penalty_whatever_it_says(toy_data):
    problem = toy_data.problems[0]
    whole, cut = (Completion("A: 1", (5,), (0.0,), finish) for finish in ("eos", "length"))
    wrong = Completion("A: 7", (5,), (0.0,), "eos")
    score = PPO(missing_eos=-0.5).reward(toy_data, Run(0))
    assert [score(problem, c) for c in (whole, wrong, cut)] == [1.0, 0.0, -0.5]
    toss = PPORandomReward(missing_eos=-0.5).reward(toy_data, Run(0))
    assert {toss(problem, cut) for _ in range(50)} == {0.0, 1.0}  # to punish what is cut would be a judgement


def watch_steps(monkeypatch):
    steps = []
    real = ppo.policy_gradient

    def remember(model, rows, advantage_RT, weight_R, *, old_RT, clip):
        with torch.no_grad():
            now = token_logprobs(model, rows)
        width = rows.input_ids.shape[1]
        facts = real(model, rows, advantage_RT, weight_R, old_RT=old_RT, clip=clip)
        steps.append((rows, advantage_RT[:, :width], weight_R, (now - old_RT[:, :width]).abs().max().item(), facts))
        return facts

    monkeypatch.setattr(ppo, "policy_gradient", remember)
    return steps


def letters(data):
    """Right is whatever holds an l: the random model draws both kinds."""
    return dataclasses.replace(data, verify=lambda problem, text: ("l" in text, text))


def test_the_first_minibatch_has_ratio_1_and_later_ones_have_not(train, toy_data, monkeypatch):
    steps = watch_steps(monkeypatch)
    run = train(PPO(epochs=2, minibatches=2, warmup=0, lr=1e-2, problems=4), tokens=6000, data=letters(toy_data))
    assert len(steps) == 4 * len(run.curve)
    for first in steps[::4]:
        assert first[3] < 1e-4
        assert first[4]["clipped"] == 0
    assert max(step[3] for step in steps) > 0.2
    assert max(step[4]["clipped"] for step in steps) > 0
    for rows, _, weight_R, *_ in steps:
        assert float((weight_R[:, None] * rows.completion_mask).sum()) == pytest.approx(1)  # a mean over tokens


def test_advantages_are_whitened_over_a_rollout_and_returns_are_not(train, toy_data, monkeypatch):
    steps, returns = watch_steps(monkeypatch), []
    real = ppo.learn_values

    def remember(critic, rows, old_RT, return_RT, clip):
        returns.append((return_RT[rows.index, : rows.input_ids.shape[1]][rows.completion_mask], clip))
        return real(critic, rows, old_RT, return_RT, clip)

    monkeypatch.setattr(ppo, "learn_values", remember)
    run = train(PPO(epochs=1, minibatches=2, warmup=1, problems=4, kl_coef=0), tokens=6000, data=letters(toy_data))
    assert "entropy" not in run.curve[0]  # warming up
    assert "entropy" in run.curve[1]
    assert len(steps) == len(returns) - 2
    assert [clip for _, clip in returns] == [math.inf, math.inf, *[0.2] * len(steps)]
    for one, two in zip(steps[::2], steps[1::2], strict=True):
        of_rollout = torch.cat([step[1][step[0].completion_mask] for step in (one, two)])
        assert of_rollout.mean().item() == pytest.approx(0, abs=1e-4)
        assert of_rollout.var(correction=0).item() == pytest.approx(1, abs=1e-3)
        assert not any(step[1][~step[0].completion_mask].any() for step in (one, two))
    assert {round(float(x), 4) for part, _ in returns for x in part} <= {-1.0, 0.0, 1.0}  # with lambda 1: the scores


def test_it_learns_to_end_where_all_that_ends_is_right(train, toy_data):
    easy = dataclasses.replace(toy_data, verify=lambda problem, text: (True, text))
    run = train(PPO(lr=3e-3, problems=12, samples=4), tokens=45_000, data=easy)
    first, last = run.curve[0], run.curve[-1]
    assert last["cut"] < first["cut"] - 0.3
    assert last["reward"] == pytest.approx(1 - 2 * last["cut"])
    assert all(math.isfinite(x) for point in run.curve for x in point.values())


def test_where_all_is_worth_0_nothing_is_learnt(train, tiny_model):
    before = tiny_model.fingerprint()
    run = train(PPO(missing_eos=0.0), tokens=4000)  # the random model is never right
    assert tiny_model.fingerprint() == before
    assert "entropy" not in run.curve[-1]


def test_it_stops_when_the_kl_runs_away(train, toy_data, monkeypatch):
    monkeypatch.setattr("harness.toolbox.rollouts.KL_BOUND", 0.05)
    method = PPO(lr=2e-2, warmup=0, kl_coef=0.0, problems=4)
    run = train(method, tokens=30_000, data=letters(toy_data))
    assert run.spent < 30_000
    assert run.stopped == f"the KL to the start was {run.curve[-1]['kl']:.2f} nats a token, above 0.05"
    assert run.curve[-1]["kl"] > 0.05 >= run.curve[-2]["kl"]


def test_the_start_and_the_critics_copy_are_apart_from_the_policy(train, tiny_model, toy_data, monkeypatch):
    copies = []

    def remember(model):
        copies.append((model.clone(), model.fingerprint()))
        return copies[-1][0]

    monkeypatch.setattr(ppo, "frozen_copy", remember)
    train(PPO(problems=4, warmup=0), tokens=3000, data=letters(toy_data))
    [(start, fingerprint)] = copies
    assert start.fingerprint() == fingerprint != tiny_model.fingerprint()
    assert not tiny_model.heads  # the critic is thrown away


def test_the_same_seed_gives_the_same_policy_and_the_control_another(make_model, train, toy_data):
    prints = []
    for method in (PPO(), PPO(), PPORandomReward()):
        model = make_model()
        train(method, tokens=4000, data=letters(toy_data), model=model)
        prints.append(model.fingerprint())
    assert prints[0] == prints[1] != prints[2]
    assert PPORandomReward.family == "control"
    assert {method.name for method in ppo.harness_methods()} == {"ppo", "ppo-random-reward"}
