"""Iterative RL with an adaptive reward model: GRPO where the judge is gold, phases, replay, and whose word counts."""

import dataclasses

import pytest
import torch

from harness.toolbox import completion_logprob, final_values, frozen_copy, roll_out
from harness_rl import adaptive_reward_rl as module
from harness_rl.adaptive_reward_rl import AdaptiveRewardRL, AdaptiveRewardRLRandomReward
from harness_rl.grpo import GRPO


def seven(problem, completion):
    """A reward that a random model earns now and then."""
    return float("7" in completion.text)


@pytest.fixture(autouse=True)
def gold(monkeypatch):
    for path in ("harness_rl.adaptive_reward_rl.verified", "harness_rl.grpo.verified"):
        monkeypatch.setattr(path, lambda _: seven)


def weights(model):
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_one_iteration_with_a_judge_that_is_right_equals_grpo(train, tiny_model, monkeypatch):
    settings = {"problems": 4, "samples": 4, "lr": 1e-3}
    other = tiny_model.clone()
    train(GRPO(**settings), tokens=6000, model=other)
    drawn = []

    def remember(*arguments):
        drawn.append(roll_out(*arguments))
        return drawn[-1]

    monkeypatch.setattr(module, "roll_out", remember)
    monkeypatch.setattr(module, "final_values", lambda *_: drawn[-1].rewards)
    before = weights(tiny_model)
    train(AdaptiveRewardRL(iterations=1, labelled=0.0, **settings), tokens=6000)
    assert not torch.equal(before, weights(tiny_model))
    assert torch.equal(weights(tiny_model), weights(other))


def test_each_iteration_teaches_the_judge_first(train, monkeypatch):
    run = train(AdaptiveRewardRL(iterations=3, labelled=0.5, problems=2, samples=4), tokens=30_000)
    phases = ["judge" if "wasted" in point else "policy" for point in run.curve]
    turns = [phase for number, phase in enumerate(phases) if number == 0 or phase != phases[number - 1]]
    assert turns[:6] == ["judge", "policy"] * 3
    assert 0.25 < phases.count("judge") / len(phases) < 0.75
    assert all("proxy" in point for point, phase in zip(run.curve, phases, strict=True) if phase == "policy")


def test_the_policy_stands_still_while_the_judge_learns(train, tiny_model):
    before = tiny_model.fingerprint()
    run = train(AdaptiveRewardRL(iterations=1, labelled=1.0, problems=8, samples=8, judge_lr=3e-3), tokens=60_000)
    assert tiny_model.fingerprint() == before
    assert sum(point.get("ranked", 0) for point in run.curve[-4:]) / 4 > 0.8  # and the judge does learn


def test_old_pairs_come_back_beside_fresh_ones(train, monkeypatch):
    taught, real = [], module.teach

    def remember(judge, optimizer, pairs):
        taught.append(pairs)
        return real(judge, optimizer, pairs)

    monkeypatch.setattr(module, "teach", remember)
    monkeypatch.setattr(module.AdaptiveRewardRL, "ranked", lambda self, model, rollouts: fresh(len(taught)))

    def fresh(step):
        return [(((1, 5), (step, i + 10, 2)), ((1, 5), (step, i + 30, 2))) for i in range(10)]

    train(AdaptiveRewardRL(iterations=1, labelled=1.0, replay=0.2, problems=2, samples=2), tokens=4000)
    assert len(taught) > 3
    assert taught[0] == fresh(0)
    for step, pairs in enumerate(taught[1:], 1):
        assert pairs[:10] == fresh(step)
        assert len(pairs) == 12
        assert all(right[1][0] < step for right, _ in pairs[10:])


def test_pairs_are_of_one_problem_right_first(tiny_model, toy_data, train):
    seen = []
    method = dataclasses.replace(AdaptiveRewardRL(), problems=4, samples=8)
    run = train(method, tokens=1)
    rollouts = roll_out(tiny_model, toy_data.problems[:4], dataclasses.replace(run, budget=None), 8, seven)
    for right, wrong in method.ranked(tiny_model, rollouts):
        assert right[0] == wrong[0]
        assert ("7" in tiny_model.decode(right[1]), "7" in tiny_model.decode(wrong[1])) == (True, False)
        seen.append(right[0])
    assert seen
    assert max(map(seen.count, seen)) <= method.pairs


def test_the_policy_follows_the_judge_and_not_the_verifier(tiny_model, toy_data, train):
    """The gradient's sign: completions that the judge likes become likelier, whatever they are worth."""
    run = train(AdaptiveRewardRL(), tokens=1)
    rollouts = roll_out(tiny_model, toy_data.problems[:2], dataclasses.replace(run, budget=None), 8, seven)
    proxy_R = torch.linspace(-1, 1, 16)
    start = frozen_copy(tiny_model)
    tiny_model.module.zero_grad()
    facts = AdaptiveRewardRL().improve(tiny_model, rollouts, proxy_R)
    assert facts["proxy"] == pytest.approx(0, abs=1e-6)
    with torch.no_grad():
        for parameter in tiny_model.module.parameters():
            parameter.sub_(0.05 * parameter.grad)
    gain_Bn = completion_logprob(tiny_model, rollouts.sequences) - completion_logprob(start, rollouts.sequences)
    gain_Bn = gain_Bn.detach().view(2, 8)
    assert (gain_Bn[:, 4:].mean(-1) > gain_Bn[:, :4].mean(-1)).all()


def test_the_judge_reads_the_last_token_of_a_copy(train, monkeypatch, tiny_model):
    judges = []

    def watch(judge, rows, head):
        judges.append(judge)
        return final_values(judge, rows, head)

    monkeypatch.setattr(module, "final_values", watch)
    train(AdaptiveRewardRL(iterations=1, labelled=0.5, problems=2, samples=4), tokens=8000)
    assert len({id(judge) for judge in judges}) == 1
    assert judges[0].module is not tiny_model.module
    assert module.HEAD not in tiny_model.heads


def test_the_control_never_asks_the_verifier(train, monkeypatch):
    assert dataclasses.asdict(AdaptiveRewardRL()) == dataclasses.asdict(AdaptiveRewardRLRandomReward())
    monkeypatch.setattr("harness_rl.adaptive_reward_rl.verified", lambda _: 1 / 0)
    run = train(AdaptiveRewardRLRandomReward(problems=4, samples=8), tokens=6000)
    assert 0.2 < sum(point["reward"] for point in run.curve) / len(run.curve) < 0.8
