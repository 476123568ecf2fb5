"""DAPO: dynamic sampling, the clip, the mean over tokens, the fee for length. Parity with TRL: test_grpo.py."""

import dataclasses
import math

import pytest
import torch

from harness import Completion, Problem, Run
from harness.toolbox import Rollouts, adamw, collate, frozen_copy, token_logprobs
from harness_rl import dapo
from harness_rl.dapo import DAPO, group_advantages, length_penalty, mixed_groups

METHOD = DAPO(problems=4, samples=8, lr=3e-3)


def says_seven(data):
    return dataclasses.replace(data, verify=lambda problem, text: ("7" in text, text))


def completion(model, text):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens, (0.0,) * len(tokens), "eos")


def gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.module.parameters()])
    model.module.zero_grad()
    return flat


# -- the pieces


def test_the_penalty_by_hand():
    """Of at most 20 tokens the last 5 cost: none up to 15, then a fifth each, 1 at the limit."""
    length = torch.tensor([0.0, 15.0, 16.0, 18.0, 20.0])
    torch.testing.assert_close(length_penalty(length, 20, 5.0), torch.tensor([0.0, 0.0, -0.2, -0.6, -1.0]))


def test_advantages_by_hand():
    """A right one, a right one at the limit, a wrong one, a wrong one at the limit: 1, 0, -1, -2; std sqrt(5/3)."""
    advantage = group_advantages(torch.tensor([[1.0, 0.0, -1.0, -2.0]]))
    torch.testing.assert_close(advantage[0], torch.tensor([1.5, 0.5, -0.5, -1.5]) / (math.sqrt(5 / 3) + 1e-4))
    assert group_advantages(torch.rand(3, 6)).sum(-1).abs().max() < 1e-5


def test_only_groups_whose_rewards_differ_are_kept(tiny_model, toy_data):
    drawn = [completion(tiny_model, text) for text in "abcdef"]
    rows = collate(tiny_model, [([1, 5], c.tokens) for c in drawn])
    rollouts = Rollouts(toy_data.problems[:3], drawn, rows, torch.tensor([1.0, 1.0, 0.0, 1.0, 0.0, 0.0]), 2)
    [(problem, of_one, rewards)] = mixed_groups(rollouts)
    assert (problem.id, [c.text for c in of_one], rewards.tolist()) == ("p1", ["c", "d"], [0.0, 1.0])


# -- an update


@pytest.fixture
def groups(tiny_model):
    problems, right = [Problem("p0", "1+1?", ""), Problem("p1", "3+1?", "")], torch.tensor([1.0, 0.0])
    texts = [["A: 2", "no idea at all"], ["T: 3+1=4. A: 4", "B"]]
    return [(p, [completion(tiny_model, t) for t in said], right) for p, said in zip(problems, texts, strict=True)]


@pytest.mark.parametrize("updates", [1, 2])
def test_every_token_weighs_one_over_the_tokens_of_the_batch(monkeypatch, tiny_model, groups, updates):
    """- sum_it A_i log pi_it / sum |y| in the mean over parts, however unlike these are; no fee so far below the limit.

    The parts have 20 and 17 tokens: of two means over their own tokens, each of the 17 would weigh more.
    """
    found = []
    monkeypatch.setattr(dapo, "update", lambda optimizer: found.append(gradient(tiny_model)))
    method = DAPO(samples=2, updates=updates)
    facts = method.learn(tiny_model, groups, Run(0, max_new_tokens=99), adamw(tiny_model, 1e-3))
    drawn = [(p, c) for p, said, _ in groups for c in said]
    rows = collate(tiny_model, [(tiny_model.encode_prompt(p.prompt), c.tokens) for p, c in drawn])
    advantage = torch.tensor([1.0, -1.0, 1.0, -1.0]) / (math.sqrt(2) + 1e-4)  # rewards +-1: std sqrt 2
    (-(token_logprobs(tiny_model, rows) * advantage[:, None]).sum() / rows.tokens).backward()
    torch.testing.assert_close(sum(found) / updates, gradient(tiny_model), rtol=1e-4, atol=1e-7)
    assert facts["penalty"] == 0


def test_near_the_limit_length_costs(monkeypatch, tiny_model, groups):
    """Of a limit of 15 tokens the last 3 cost: "no idea at all" with its `eos` has 15, the others at most 15."""
    given = []
    monkeypatch.setattr(dapo, "policy_gradient", lambda *args, **_: given.append(args[2]) or {})
    lengths = torch.tensor([float(len(c.tokens)) for _, said, _ in groups for c in said])
    DAPO(samples=2, updates=1).learn(tiny_model, groups, Run(0, max_new_tokens=15), adamw(tiny_model, 1e-3))
    shaped = torch.tensor([1.0, -1.0, 1.0, -1.0]) + ((12 - lengths) / 3).clamp(-1, 0)
    assert lengths.tolist() == [5, 15, 15, 2]
    torch.testing.assert_close(given[0][:, 0], group_advantages(shaped.view(2, 2)).flatten())


def test_the_second_part_is_clipped_by_what_the_first_one_moved(monkeypatch, tiny_model, groups):
    """Its ratio is to the policy that drew it, not to the one that the first update left; 0.28 above, 0.2 below."""
    start, calls, real = frozen_copy(tiny_model), [], dapo.policy_gradient

    def watch(model, rows, advantage, weight, *, old_RT, clip):
        calls.append((rows, old_RT, clip, weight))
        return real(model, rows, advantage, weight, old_RT=old_RT, clip=clip)

    monkeypatch.setattr(dapo, "policy_gradient", watch)
    same = [groups[0], (Problem("p0", "1+1?", ""), *groups[0][1:])]  # the same rows: the first part moves the second's
    facts = DAPO(samples=2).learn(tiny_model, same, Run(0, max_new_tokens=99), adamw(tiny_model, 1e-2))
    (first, none, _, _), (second, old_RT, clip, weight) = calls
    assert none is None
    assert len(first) == len(second) == 2
    torch.testing.assert_close(old_RT, token_logprobs(start, second))
    assert facts["clipped"] > 0
    assert clip == (0.2, 0.28)
    assert weight.tolist() == pytest.approx([2 / 40] * 2)  # 40 tokens in the batch, two updates of it


# -- dynamic sampling


@pytest.fixture
def spied(monkeypatch):
    """Sizes of the batches that are learnt from, filled while a method trains."""
    sizes, real = [], DAPO.learn
    monkeypatch.setattr(DAPO, "learn", lambda *args: sizes.append(len(args[2])) or real(*args))
    return sizes


def test_further_problems_are_drawn_until_the_batch_is_full(train, toy_data, spied):
    """Half of the problems are mixed by their verifier, half are never right."""
    falls = iter(range(10**6))
    data = dataclasses.replace(toy_data, verify=lambda p, text: (next(falls) % 2 if int(p.id[1:]) % 2 else 0, text))
    run = train(METHOD, tokens=20_000, data=data)
    assert spied
    assert all(4 <= size < 8 for size in spied)
    for before, point in zip(run.curve, run.curve[1:], strict=False):
        fresh = before["groups"] if "penalty" not in before else 0  # learnt from: the next batch begins
        assert point["groups"] == fresh + 4 * (1 - point["wasted"])
        assert ("penalty" in point) == (point["groups"] >= 4)


def test_a_batch_that_never_fills_is_learnt_from_after_so_many_draws(train, toy_data, spied):
    falls = iter(range(10**6))
    data = dataclasses.replace(toy_data, verify=lambda p, text: (next(falls) % 2 if p.id == "p3" else 0, text))
    run = train(dataclasses.replace(METHOD, draws=3), tokens=12_000, data=data)
    assert spied
    assert all(size <= 1 for size in spied)  # every problem comes once in three draws of four
    assert len(spied) == len(run.curve) // 3


@pytest.mark.parametrize("right", [False, True])
def test_of_equal_rewards_nothing_is_learnt_and_the_share_is_logged(train, tiny_model, toy_data, right):
    """Not even from their lengths: whether a group is mixed is the verifier's to say."""
    before = tiny_model.fingerprint()
    run = train(METHOD, data=dataclasses.replace(toy_data, verify=lambda problem, text: (right, text)))
    assert tiny_model.fingerprint() == before
    assert {(point["wasted"], point["groups"]) for point in run.curve} == {(1.0, 0.0)}
    assert run.ledger.trained_tokens == 0


# -- a run


def test_it_learns_what_is_rewarded_and_keeps_the_budget(train, toy_data):
    run = train(METHOD, tokens=40_000, data=says_seven(toy_data))
    rewards = [point["reward"] for point in run.curve]
    assert sum(rewards[-3:]) / 3 > 1.5 * sum(rewards[:3]) / 3
    assert run.curve[-2]["tokens"] < 40_000
    assert 0 < run.ledger.scored_tokens < run.ledger.trained_tokens  # the first part's own need no scoring


def test_the_same_seed_gives_the_same_curve(train, make_model, toy_data):
    runs = [train(METHOD, tokens=10_000, data=says_seven(toy_data), model=make_model()) for _ in range(2)]
    first, second = ([{k: v for k, v in p.items() if k != "seconds"} for p in run.curve] for run in runs)
    assert first == second
    assert any("clipped" in point for point in first)


@pytest.mark.parametrize(("field", "value"), [("samples", 1), ("draws", 0), ("updates", 0), ("cache", 0.0)])
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"{field} of dapo must be at least"):
        DAPO(**{field: value})


def test_a_reward_that_is_no_number_names_its_problem(train, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda p, text: (math.nan if p.id == "p3" else 0.0, text))
    with pytest.raises(ValueError, match="problem p3 is nan"):
        train(DAPO(), data=data)
