"""The R1 pipeline: its stages in order on one budget, what is kept, what each learns from, and who is left."""

import dataclasses

import pytest
import torch

from harness import Completion, Pair, Run
from harness.toolbox import Rollouts, collate, encode_pairs
from harness_rl import r1_pipeline as module
from harness_rl.grpo import GRPO
from harness_rl.r1_pipeline import R1Pipeline, R1PipelineRandomReward, until

METHOD = R1Pipeline(problems=4, samples=8, most=2, batch_size=4, sft_lr=3e-3)
SHARES = {1: (0, 0.2), 2: (0.2, 0.5), 3: (0.6, 0.7), 4: (0.75, 0.8), 5: (0.9, 1.0)}


@pytest.fixture(autouse=True)
def seven(monkeypatch):
    """A reward that a random model earns now and then."""
    for path in ("harness_rl.r1_pipeline.verified", "harness_rl.grpo.verified"):
        monkeypatch.setattr(path, lambda _: lambda problem, completion: float("7" in completion.text))


def test_every_stage_has_its_share_of_one_budget_in_order(train):
    run = train(METHOD, tokens=60_000)
    stages = [point["stage"] for point in run.curve if "stage" in point]
    assert stages == sorted(stages)
    assert set(stages) == {1, 2, 3, 4, 5}
    for stage, (begin, end) in SHARES.items():
        spent = [point["tokens"] / 60_000 for point in run.curve if point.get("stage") == stage]
        assert begin < spent[0]
        assert end - 0.1 < spent[-1] < end + 0.1  # a rollout of 32 completions more, at most
    assert run.spent < 64_000


def test_until_stops_at_its_share_and_leaves_the_rest_to_the_next():
    run, batches = Run(0, budget=10), iter(range(9))
    run.charge("trained", 1)
    taken = []
    for batch in until(batches, run, 0.3):
        taken.append(batch)
        run.charge("trained", 1)
    assert taken == [0, 1]
    assert list(until(batches, run, 0.1)) == [2]  # at least one, however late it is
    assert next(batches) == 3


@pytest.fixture
def learnt(monkeypatch):
    """What each call of `learn` was given: (fingerprint of the model, examples)."""
    calls, real = [], R1Pipeline.learn

    def learn(self, model, examples, *settings, stage):
        calls.append((model.fingerprint(), list(examples)))
        real(self, model, examples, *settings, stage=stage)

    monkeypatch.setattr(R1Pipeline, "learn", learn)
    return calls


def test_fine_tuning_always_begins_at_the_start_and_the_last_one_is_the_result(train, tiny_model, learnt):
    before = tiny_model.fingerprint()
    train(METHOD, tokens=30_000)
    assert [weights for weights, _ in learnt] == [before] * 3
    assert tiny_model.fingerprint() != before
    assert not tiny_model.heads


def test_the_student_never_sees_a_worked_solution(train, tiny_model, toy_data, learnt):
    train(METHOD, tokens=30_000)
    worked = {tuple(tiny_model.encode_completion(toy_data.render_target(p, True))) for p in toy_data.problems}
    (_, cold), (_, middle), (_, last) = learnt
    assert {tuple(tokens) for _, tokens in cold} == worked
    assert all("7" in tiny_model.decode(tokens) for _, tokens in [*middle, *last])
    assert last[: len(middle)] == middle  # the samples of stage 3 and those of the last policy
    assert len(last) > len(middle)


def test_what_is_kept_by_hand(monkeypatch, tiny_model, toy_data):
    """Right, ended, each text once a problem, the first two of each."""
    said = ["7y", "7a", "b", "7a", "7c", "7d", "7e", "x"]
    finish = ["length"] + ["eos"] * 7
    problems = toy_data.problems[:1]
    drawn = [
        Completion(t, tuple(tiny_model.encode_completion(t)), (0.0,), f) for t, f in zip(said, finish, strict=True)
    ]
    rows = collate(tiny_model, [(tiny_model.encode_prompt(problems[0].prompt), c.tokens) for c in drawn])
    rewards = torch.tensor([float("7" in t) for t in said])
    monkeypatch.setattr(module, "roll_out", lambda *_: Rollouts(problems, drawn, rows, rewards, 8))
    kept = METHOD.right_samples(tiny_model, None, [problems], Run(0, budget=1), 1.0)
    assert [tiny_model.decode(tokens) for _, tokens in kept] == ["7a", "7c"]


def test_no_right_sample_is_said(train, monkeypatch):
    monkeypatch.setattr(module, "verified", lambda _: lambda problem, completion: 0.0)
    with pytest.raises(ValueError, match="no sample was right"):
        train(METHOD, tokens=6000)


def test_the_judge_learns_what_is_preferred_and_leaves_the_policy_alone(tiny_model, toy_data):
    pairs = [Pair(p.id, p.prompt, f"A: {p.answer}", "A: no") for p in toy_data.problems]
    data, before = dataclasses.replace(toy_data, pairs=pairs), tiny_model.fingerprint()
    run = Run(3, budget=20_000, max_new_tokens=12)
    run.watch(tiny_model)
    bonus = METHOD.preference(tiny_model, data, run, (0.0, 1.0))
    run.close()
    chosen_R = bonus(encode_pairs(tiny_model, [(p.prompt, p.chosen) for p in pairs]))
    rejected_R = bonus(encode_pairs(tiny_model, [(p.prompt, p.rejected) for p in pairs]))
    assert (chosen_R > rejected_R).all()
    assert 0 <= float(rejected_R.min()) <= float(chosen_R.max()) <= 1
    assert not chosen_R.requires_grad
    assert tiny_model.fingerprint() == before


def test_the_bonus_is_added_to_the_reward(monkeypatch, tiny_model, toy_data):
    """Where every completion is right, only what the judge prefers gets likelier."""
    given = []

    def gradient(model, rows, advantage_R1, weight_R):
        given.append(advantage_R1)
        return {}

    monkeypatch.setattr(module, "policy_gradient", gradient)
    run = Run(1, budget=2000, max_new_tokens=6)
    run.watch(tiny_model)
    batches, span = [toy_data.problems[:2]], (0.0, 1.0)
    METHOD.reinforce(tiny_model, lambda *_: 1.0, batches, run, span, stage=2)
    METHOD.reinforce(tiny_model, lambda *_: 1.0, batches, run, span, stage=4, bonus=lambda rows: rows.index.float() % 2)
    run.close()
    assert not given[0].any()
    assert (given[1].view(2, 8)[:, 1::2] > 0).all()
    assert given[1].view(2, 8).sum(-1) == pytest.approx([0, 0], abs=1e-5)


def test_the_judge_speaks_in_the_second_reinforcement_alone(train, monkeypatch):
    said, real = [], R1Pipeline.reinforce

    def reinforce(self, *settings, **named):
        said.append(named.get("bonus"))
        real(self, *settings, **named)

    monkeypatch.setattr(R1Pipeline, "reinforce", reinforce)
    monkeypatch.setattr(R1Pipeline, "preference", lambda *_: module.free)
    train(METHOD, tokens=30_000)
    assert said == [None, module.free]


def test_reinforcement_is_a_step_of_grpo(make_model, toy_data):
    """Bit for bit, where the budget is one step's, so that both have the same rate; completions differ in length."""
    settings, prints = {"problems": 4, "samples": 8, "lr": 1e-2}, []

    def reinforce(model, data, run):
        batches, span = run.batches(data.problems, 4), (0.0, 1.0)
        R1Pipeline(**settings).reinforce(model, module.verified(data), batches, run, span, stage=2)

    for work in (GRPO(**settings).train, reinforce):
        model, run = make_model(), Run(7, budget=1, max_new_tokens=90)
        run.watch(model)
        work(model, toy_data, run)
        run.close()
        prints.append(model.fingerprint())
        assert run.curve[0]["cut"] < 0.9
    assert prints[0] == prints[1] != make_model().fingerprint()


@pytest.mark.parametrize(
    ("changes", "said"),
    [({"reasoning": 0.7}, "the shares"), ({"cold_start": 0.0}, "the shares"), ({"samples": 1}, "at least 2")],
)
def test_settings_that_make_no_sense_are_said(changes, said):
    with pytest.raises(ValueError, match=said):
        R1Pipeline(**changes)


def test_the_control_never_asks_the_verifier(train, monkeypatch):
    assert dataclasses.asdict(R1Pipeline()) == dataclasses.asdict(R1PipelineRandomReward())
    monkeypatch.setattr(module, "verified", lambda _: 1 / 0)
    run = train(R1PipelineRandomReward(problems=4, samples=8, batch_size=4), tokens=20_000)
    rewards = [point["reward"] for point in run.curve if "reward" in point]
    assert 0.2 < sum(rewards) / len(rewards) < 0.8
