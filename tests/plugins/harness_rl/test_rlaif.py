"""RLAIF: preferences of both orders by hand, ties of what was not said, a judge beside the budget, what is learnt."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness.toolbox import compare_by_scores, compare_by_tokens, frozen_copy, sample_many
from harness_rl import rlaif as module
from harness_rl.dpo import dpo_loss
from harness_rl.rlaif import RLAIF, RLAIFRandomReward, agreement, preference, soft_dpo_loss

NAN = math.nan


@pytest.fixture
def teach(tiny_model, judge, toy_data):
    """Train the random model with a judge; the run."""

    def go(method, tokens=8000, judge=judge, data=toy_data):
        run = Run(7, budget=tokens, max_new_tokens=12, open_model=lambda name: judge)
        run.watch(tiny_model)
        with run.pays():
            method.train(tiny_model, data, run)
        run.close()
        return run

    return go


TEXTS = [("A: 1", "A: 77 no"), ("T: 1+1=2. A: 2", "B"), ("A: 9", "A: 8")]
SWAPPED = [pair[::-1] for pair in TEXTS]


# -- preferences


def test_by_hand():
    """Odds of 3 to 1 in front, even ones behind: (0.75 + 0.5) / 2 less the rest. An order unsaid is even."""
    forth, back = torch.tensor([math.log(3), math.log(3), NAN]), torch.tensor([0.0, NAN, NAN])
    assert preference(forth, back).tolist() == pytest.approx([0.25, 0.25, 0.0])
    certain = torch.tensor([math.inf, -math.inf])
    assert preference(certain, -certain).tolist() == [1.0, -1.0]


def test_a_judge_that_prefers_what_stands_in_front_prefers_nothing():
    always = torch.tensor([0.3, 5.0, -2.0])
    assert preference(always, always).tolist() == [0, 0, 0]


def test_swapping_the_candidates_negates_the_preference_exactly():
    forth, back = torch.randn(2, 100, generator=torch.Generator().manual_seed(0)).mul(3)
    forth[:3] = NAN
    assert torch.equal(preference(forth, back), -preference(back, forth))


@pytest.mark.parametrize("way", ["scores", "tokens"])
def test_swapping_is_exact_for_a_judge_as_well(judge, compared, way, favour):
    if way == "tokens":
        favour(judge)

    def judged(texts):
        return preference(
            *(
                compare_by_scores(judge, compared(texts), "", 0.5)
                if way == "scores"
                else compare_by_tokens(judge, compared(texts))
            )
        )

    first = judged(TEXTS)
    assert first.abs().min() > 1e-4
    torch.testing.assert_close(judged(SWAPPED), -first, rtol=1e-4, atol=1e-6)  # rows of a batch move, as float sums do


# -- facts


def test_agreement_counts_only_pairs_that_differ_and_a_tie_as_half(compared):
    # right are "A: 1" of the first problem, "A: 2" of the second; of the third none
    facts = agreement(torch.tensor([0.4, 0.0, -1.0]), compared(TEXTS))
    assert facts["agreement"] == 0.75
    assert facts["longer"] == pytest.approx((0 + 0.5) / 2)  # of the third, both are as long
    assert facts["ties"] == pytest.approx(1 / 3)
    assert "agreement" not in agreement(torch.ones(1), compared([("A: 8", "A: 9")]))


# -- the loss


def test_certain_preferences_are_dpo_and_a_tie_pulls_the_two_together():
    ratio, start = torch.tensor([1.0, -2.0, 0.5, 3.0]), torch.ones(4)
    assert soft_dpo_loss(ratio, torch.ones(2), 0.3).item() == pytest.approx(dpo_loss(ratio + start, start, 0.3).item())
    swapped = ratio[[2, 3, 0, 1]]
    assert soft_dpo_loss(swapped, -torch.ones(2), 0.3).item() == pytest.approx(
        soft_dpo_loss(ratio, torch.ones(2), 0.3).item()
    )
    even = torch.zeros(2, requires_grad=True)
    loss = soft_dpo_loss(even, torch.zeros(1), 0.3)
    assert loss.item() == pytest.approx(math.log(2))
    (gradient,) = torch.autograd.grad(loss, even)
    assert not gradient.any()


def test_a_soft_preference_has_its_own_odds_as_target():
    odds = torch.tensor([0.8])  # s = 2 * 0.9 - 1
    ratio = torch.tensor([math.log(9) / 0.5, 0.0], requires_grad=True)
    (gradient,) = torch.autograd.grad(soft_dpo_loss(ratio, odds, 0.5), ratio)
    assert gradient.tolist() == pytest.approx([0, 0], abs=1e-6)


# -- training


def test_the_judge_is_frozen_and_what_it_reads_is_beside_the_budget(teach, judge):
    fingerprint = judge.fingerprint()
    run = teach(RLAIF(problems=6), tokens=6000)
    assert run.curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-4)
    assert run.curve[0]["kl"] == pytest.approx(0, abs=1e-5)
    assert all(point["flips"] == point["unsaid"] == 0 for point in run.curve)
    assert run.ledger.other_tokens > 0
    assert run.ledger.scored_tokens == run.ledger.trained_tokens + run.ledger.other_tokens
    assert judge.fingerprint() == fingerprint


def test_the_policy_moves_to_what_the_judge_prefers_away_from_its_start(teach, tiny_model, monkeypatch):
    """A judge that counts sevens: fresh samples come to hold more of them."""

    def sevens(judge, rollouts, cue, temperature):
        first_B, second_B = rollouts.by_problem(
            torch.tensor([float(c.text.count("7")) for c in rollouts.completions])
        ).T
        return 9 * (first_B - second_B), 9 * (second_B - first_B)

    def held(model):
        said = sample_many(model, ["1+1?"], Run(1, max_new_tokens=12), ids=["x"], n=256)[0]
        return sum(c.text.count("7") for c in said)

    monkeypatch.setattr(module, "compare_by_scores", sevens)
    before = held(tiny_model)
    run = teach(RLAIF(problems=12, lr=2e-3), tokens=30_000)
    assert held(tiny_model) > 1.5 * before > 0
    assert run.curve[-1]["kl"] > 0.01


def test_the_verifier_is_watched_and_never_learnt_from(teach, tiny_model, toy_data):
    start = frozen_copy(tiny_model)
    teach(RLAIF(problems=4), tokens=3000)
    one = tiny_model.fingerprint()
    tiny_model.module.load_state_dict(start.module.state_dict())
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (len(text) % 2 == 0, text))
    run = teach(RLAIF(problems=4), tokens=3000, data=data)
    assert tiny_model.fingerprint() == one
    assert any("agreement" in point for point in run.curve)


def test_where_the_judge_says_nothing_nothing_is_learnt(teach, judge, tiny_model, favour):
    favour(judge, factor=-1.0)
    before = tiny_model.fingerprint()
    run = teach(RLAIF(compare="tokens", problems=4), tokens=1500)
    assert all(point["ties"] == point["unsaid"] == 1 for point in run.curve)
    assert "loss" not in run.curve[0]
    assert tiny_model.fingerprint() == before


def test_a_judge_of_both_is_trained_with_and_its_flips_are_counted(teach, judge, tiny_model, favour, monkeypatch):
    favour(judge)
    before = tiny_model.fingerprint()
    run = teach(RLAIF(compare="tokens", problems=4), tokens=1500)
    assert tiny_model.fingerprint() != before
    monkeypatch.setattr(
        module, "compare_by_tokens", lambda judge, rollouts: (torch.ones(4), torch.tensor([1.0, -1, -1, NAN]))
    )
    run = teach(RLAIF(compare="tokens", problems=4), tokens=100)
    assert run.curve[0]["flips"] == 0.25
    assert run.curve[0]["unsaid"] == 0.125
    assert run.curve[0]["ties"] == 0.25


def test_the_same_completion_twice_is_a_tie_whatever_the_judge_says(teach, tiny_model, monkeypatch):
    real = module.roll_out

    def twice(model, problems, run, n, reward):
        rollouts = real(model, problems, run, n, reward)
        said = [c for c in rollouts.completions[::2] for _ in range(2)]
        return dataclasses.replace(rollouts, completions=said)

    monkeypatch.setattr(module, "roll_out", twice)
    monkeypatch.setattr(module, "compare_by_scores", lambda *_: (torch.ones(4), -torch.ones(4)))
    before = tiny_model.fingerprint()
    run = teach(RLAIF(problems=4), tokens=1000)
    assert run.curve[0]["ties"] == 1
    assert tiny_model.fingerprint() == before


def test_the_control_tosses_a_coin_and_opens_no_judge(train, tiny_model, monkeypatch):
    tossed, real = [], module.preference
    monkeypatch.setattr(module, "preference", lambda *a: tossed.append(real(*a)) or tossed[-1])
    before = tiny_model.fingerprint()
    run = train(RLAIFRandomReward(problems=12), tokens=8000)  # this run could open no model
    assert tiny_model.fingerprint() != before
    sides = torch.cat(tossed)
    assert set(sides.tolist()) == {-1.0, 1.0}
    assert 0.25 < (sides > 0).float().mean() < 0.75
    assert all(point["unsaid"] == 0 for point in run.curve)
    assert RLAIFRandomReward.models == ()


def test_another_way_to_compare_is_refused_before_anything_runs():
    with pytest.raises(ValueError, match="rlaif: compare must be scores or tokens, not 'votes'"):
        RLAIF(compare="votes")
