"""Rejection-sampling fine-tuning: what is kept, that it alone is learnt, and that a round goes on from the last."""

import dataclasses
import math

import pytest
import torch

from harness import Completion, Run
from harness.toolbox import Rollouts, collate, completion_loss, frozen_copy
from harness_rl import rejection_sampling_ft
from harness_rl.rejection_sampling_ft import RejectionSamplingFT, RejectionSamplingFTRandomReward, keep

METHOD = RejectionSamplingFT(problems=4, samples=8, most=2, batch_size=4, lr=3e-3)


def says_seven(data):
    return dataclasses.replace(data, verify=lambda problem, text: ("7" in text, text))


@pytest.fixture
def rolled(tiny_model, toy_data):
    """`rolled(texts, rewards)`: rollouts of as many problems as there are lists of texts."""

    def go(texts, rewards, finish="eos"):
        problems = toy_data.problems[: len(texts)]
        rows = [
            (p, t, tuple(tiny_model.encode_completion(t)))
            for p, said in zip(problems, texts, strict=True)
            for t in said
        ]
        sequences = collate(tiny_model, [(tiny_model.encode_prompt(p.prompt), ids) for p, _, ids in rows])
        drawn = [Completion(t, ids, (0.0,) * len(ids), finish) for _, t, ids in rows]
        return Rollouts(problems, drawn, sequences, torch.tensor(rewards), len(texts[0]))

    return go


def test_what_is_kept_by_hand(rolled):
    """Right, each text once a problem, the first two of each; the same text is kept of another problem."""
    texts = [["a", "b", "a", "c", "d", "e"], ["x", "y", "y", "z", "a", "x"]]
    given = rolled(texts, [1.0, 0.0, 1.0, 1.0, 1.0, 1.0, 0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    assert keep(given, 2) == [0, 3, 7, 10]
    assert keep(given, 9) == [0, 3, 4, 5, 7, 10]


def test_what_was_cut_at_the_limit_is_not_kept(rolled):
    """It has no `eos`, so learning it would teach not to stop."""
    assert keep(rolled([["a", "b"]], [1.0, 1.0]), 4) == [0, 1]
    assert keep(rolled([["a", "b"]], [1.0, 1.0], finish="length"), 4) == []


@pytest.fixture
def spied(monkeypatch):
    """Rounds as (rollouts, batches learnt, fingerprint of the sampler), filled while a method trains."""
    rounds = []
    real_roll, real_loss = rejection_sampling_ft.roll_out, rejection_sampling_ft.completion_loss

    def roll(model, *args):
        rounds.append((real_roll(model, *args), [], model.fingerprint()))
        return rounds[-1][0]

    def loss(model, rows):
        rounds[-1][1].append(rows)
        return real_loss(model, rows)

    monkeypatch.setattr(rejection_sampling_ft, "roll_out", roll)
    monkeypatch.setattr(rejection_sampling_ft, "completion_loss", loss)
    return rounds


def learnt(model, batches):
    return [tuple(rows.input_ids[i][rows.completion_mask[i]].tolist()) for rows in batches for i in range(len(rows))]


def test_every_sample_that_is_learnt_verifies_and_the_cap_holds(train, tiny_model, toy_data, spied):
    run = train(METHOD, tokens=10_000, data=says_seven(toy_data))
    assert len(spied) > 3
    assert any(batches for _, batches, _ in spied)
    for rollouts, batches, _ in spied[:-1]:  # the budget may end the last round
        rows = learnt(tiny_model, batches)
        wanted = {c.tokens for c in rollouts.completions if "7" in c.text and c.finish == "eos"}
        assert set(rows) <= wanted
        assert all(len(rows_of.input_ids) <= 4 for rows_of in batches)
        for problem in range(4):
            own = {c.tokens for c in rollouts.completions[8 * problem : 8 * problem + 8]} & wanted
            assert len(set(rows) & own) >= min(2, len({tiny_model.decode(t) for t in own}))
        assert len(rows) == len(keep(rollouts, 2)) <= 8
    logged = [point for point in run.curve if "wasted" in point]
    assert [point["wasted"] for point in logged] == [
        1 - len(keep(rollouts, 2)) / len(rollouts.completions) for rollouts, *_ in spied
    ]
    solved = [len({row // 8 for row in keep(rollouts, 2)}) / 4 for rollouts, *_ in spied]
    assert [point["coverage"] for point in logged] == solved


def test_a_step_is_supervised_learning_of_what_was_kept(rolled, monkeypatch, tiny_model, toy_data):
    """The mean of -log p over the tokens kept, prompt left out, `eos` counted: by hand from the logits."""
    given = rolled([["A: 1", "no"], ["B", "A: 2 or so"]], [1.0, 0.0, 0.0, 1.0])
    monkeypatch.setattr(rejection_sampling_ft, "roll_out", lambda *args: given)
    start, run = frozen_copy(tiny_model), Run(0, budget=1, max_new_tokens=12)
    run.watch(tiny_model)
    RejectionSamplingFT(problems=2, samples=2).train(tiny_model, toy_data, run)
    total, tokens = 0.0, 0
    for problem, text in zip(toy_data.problems[:2], ("A: 1", "A: 2 or so"), strict=True):
        ids, target = start.encode_prompt(problem.prompt), start.encode_completion(text)
        logprobs = start.module(torch.tensor([ids + target])).logits[0].log_softmax(-1)
        total -= sum(logprobs[len(ids) + t - 1, token].item() for t, token in enumerate(target))
        tokens += len(target)
    assert run.curve[1]["loss"] == pytest.approx(total / tokens, rel=1e-5)
    after = completion_loss(tiny_model, given.sequences.select(torch.tensor([0, 3])), backward=False)
    assert after < total / tokens


def test_a_round_goes_on_from_the_last_one(train, tiny_model, toy_data, spied):
    before = tiny_model.fingerprint()
    train(METHOD, tokens=10_000, data=says_seven(toy_data))
    samplers = [sampler for *_, sampler in spied]
    assert samplers[0] == before
    assert (
        len(set(samplers)) == len([batches for _, batches, _ in spied[:-1] if batches]) + 1
    )  # never back to the start


def test_it_learns_what_is_kept_and_keeps_the_budget(train, toy_data):
    run = train(METHOD, tokens=24_000, data=says_seven(toy_data))
    rewards = [point["reward"] for point in run.curve if "reward" in point]
    assert sum(rewards[-3:]) / 3 > 2 * sum(rewards[:3]) / 3
    assert run.curve[-2]["tokens"] < 24_000


def test_where_nothing_is_right_nothing_is_learnt_and_the_share_is_logged(train, tiny_model, toy_data):
    before = tiny_model.fingerprint()
    run = train(METHOD, data=dataclasses.replace(toy_data, verify=lambda problem, text: (False, text)))
    assert tiny_model.fingerprint() == before
    assert {(point["coverage"], point["wasted"]) for point in run.curve} == {(0.0, 1.0)}
    assert run.ledger.trained_tokens == 0


def test_the_same_seed_gives_the_same_curve(train, make_model, toy_data):
    runs = [train(METHOD, data=says_seven(toy_data), model=make_model()) for _ in range(2)]
    first, second = ([{k: v for k, v in p.items() if k != "seconds"} for p in run.curve] for run in runs)
    assert first == second


def test_the_control_keeps_by_coin(train, tiny_model, toy_data, spied):
    before = tiny_model.fingerprint()
    method = RejectionSamplingFTRandomReward(problems=4, samples=8, most=8)
    train(method, tokens=8_000, data=dataclasses.replace(toy_data, verify=None))
    assert tiny_model.fingerprint() != before
    falls = torch.cat([rollouts.rewards for rollouts, *_ in spied])
    assert 0.35 < falls.mean() < 0.65
    assert (method.family, RejectionSamplingFT.family) == ("control", "reinforcement-learning")


def test_a_reward_that_is_no_number_names_its_problem(train, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda p, text: (math.nan if p.id == "p3" else 0.0, text))
    with pytest.raises(ValueError, match="problem p3 is nan"):
        train(RejectionSamplingFT(), data=data)
