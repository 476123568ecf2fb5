"""Reasoning-oriented RL: a constant weight a token, the base as the start, and what the verifier calls right."""

import dataclasses

import pytest
import torch

from harness import Completion
from harness.toolbox import completion_logprob, frozen_copy, roll_out, verified
from harness_rl.reasoning_rl import ReasoningRL, ReasoningRLRandomReward, thinks


def said(text):
    return Completion(text, (), (), "eos")


def even(problem, completion):
    """A reward that a random model earns now and then."""
    return float(completion.tokens[0] % 2)


def test_it_starts_from_the_base_model():
    assert ReasoningRL.after == ()


@pytest.mark.parametrize(("text", "expected"), [("A: 3", False), ("\nA: 3\n", False), ("T: 1+2=3.\nA: 3", True)])
def test_thinking_is_what_stands_before_the_answer(text, expected):
    assert thinks(said(text)) is expected


def test_the_first_step_follows_the_equation(train, tiny_model, toy_data, monkeypatch):
    """- 1/(R L_max) sum_i (r_i - mean r) log pi(y_i): summed over tokens, no division by lengths or spread."""
    start, seen, gradients = frozen_copy(tiny_model), [], []

    def remember(model, *arguments):
        seen.append(roll_out(model, *arguments))
        return seen[-1]

    def keep(optimizer):
        gradients.append(torch.cat([p.grad.flatten() for p in tiny_model.parameters()]))
        optimizer.zero_grad()

    monkeypatch.setattr("harness_rl.reasoning_rl.roll_out", remember)
    monkeypatch.setattr("harness_rl.reasoning_rl.update", keep)
    monkeypatch.setattr("harness_rl.reasoning_rl.verified", lambda _: even)
    train(ReasoningRL(problems=3, samples=4), tokens=1)
    [rollouts] = seen
    reward_Bn = rollouts.rewards.view(3, 4)
    assert (reward_Bn.std(-1) > 0).any()
    advantage_R = (reward_Bn - reward_Bn.mean(-1, keepdim=True)).flatten()
    start.module.requires_grad_(True)
    (-(completion_logprob(start, rollouts.sequences) * advantage_R).sum() / (12 * 12)).backward()
    by_hand = torch.cat([p.grad.flatten() for p in start.parameters()])
    assert float(by_hand.abs().max()) > 1e-6
    torch.testing.assert_close(gradients[0], by_hand, rtol=1e-3, atol=1e-7)


def test_groups_without_a_difference_are_drawn_and_not_read(train, monkeypatch):
    monkeypatch.setattr("harness_rl.reasoning_rl.verified", lambda _: lambda *_: 1.0)
    run = train(ReasoningRL(problems=2, samples=4), tokens=2000)
    assert [point["wasted"] for point in run.curve] == [1.0] * len(run.curve)
    assert run.ledger.trained_tokens == 0
    assert run.ledger.sampled_tokens > 0


def test_what_pays_grows(train, tiny_model, toy_data, monkeypatch):
    monkeypatch.setattr("harness_rl.reasoning_rl.verified", lambda _: even)
    run = train(ReasoningRL(problems=8, samples=8, lr=3e-3), tokens=60_000)
    first, last = run.curve[:3], run.curve[-3:]
    assert sum(p["reward"] for p in last) > sum(p["reward"] for p in first) + 0.6
    assert {"reward", "length", "cut", "kl", "entropy", "wasted", "thinking"} <= set(run.curve[0])
    assert run.curve[0]["kl"] == pytest.approx(0, abs=1e-6)
    assert max(point.get("kl", 0) for point in run.curve) > 1e-3


def test_the_control_is_the_same_but_for_its_reward(train, tiny_model, toy_data, monkeypatch):
    assert dataclasses.asdict(ReasoningRL()) == dataclasses.asdict(ReasoningRLRandomReward())
    monkeypatch.setattr("harness_rl.reasoning_rl.verified", lambda _: 1 / 0)  # it never asks the verifier
    run = train(ReasoningRLRandomReward(problems=4, samples=8), tokens=4000)
    assert 0.2 < sum(point["reward"] for point in run.curve) / len(run.curve) < 0.8


def test_the_verifier_is_the_datasets(toy_data):
    [problem, *_] = toy_data.problems
    assert verified(toy_data)(problem, said(f"A: {problem.answer}")) == 1
    assert verified(toy_data)(problem, said("A: no")) == 0
