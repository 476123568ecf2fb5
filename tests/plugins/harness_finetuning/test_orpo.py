"""ORPO: eqs. (4), (6) and (7) by hand, log(1 - P) near P = 1, means and not sums."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness.cell import check_views
from harness.rows import DataError
from harness_finetuning.orpo import ORPO, log_odds, orpo_loss


def test_by_hand():
    # P = 0.8 a token over 2 tokens against 0.2 over 3: odds of 4 and 1/4, a ratio of 16
    logprob, tokens = torch.tensor([2 * math.log(0.8), 3 * math.log(0.2)]), torch.tensor([2, 3])
    expected = -math.log(0.8) + 0.5 * math.log(1 + 1 / 16)
    assert orpo_loss(logprob, tokens, 0.5).item() == pytest.approx(expected, rel=1e-6)


def test_equal_means_cost_ln_2_times_the_weight():
    logprob, tokens = torch.tensor([-2.0, -8.0]), torch.tensor([1, 4])  # sums would differ by 6
    assert orpo_loss(logprob, tokens, 0.25).item() == pytest.approx(2.0 + 0.25 * math.log(2), rel=1e-6)


def test_without_its_second_term_it_is_supervised_and_leaves_rejected_completions_alone():
    logprob = torch.tensor([-2.0, -9.0, -3.0, -4.0], requires_grad=True)
    loss = orpo_loss(logprob, torch.tensor([1, 9, 3, 2]), 0.0)
    assert loss.item() == pytest.approx(11 / 10)  # over all ten chosen tokens: no mean of means, which is 1.5
    loss.backward()
    assert torch.allclose(logprob.grad, torch.tensor([-0.1, -0.1, 0.0, 0.0]))


def test_the_second_term_lowers_rejected_completions():
    logprob = torch.tensor([-2.0, -2.0], requires_grad=True)
    orpo_loss(logprob, torch.tensor([1, 1]), 1.0).backward()
    slope = 0.5 / (1 - math.exp(-2.0))  # of -log sigmoid at 0, times d log odds / d log P = 1 / (1 - P)
    assert logprob.grad.tolist() == pytest.approx([-1.0 - slope, slope], rel=1e-5)


@pytest.mark.parametrize("mean", [-30.0, -3.0, -0.7, -0.1, -1e-3, -1e-5, -2e-6])
def test_log_odds_and_their_slope_are_exact_in_float32(mean):
    tensor = torch.tensor([mean], requires_grad=True)
    mean = float(tensor.detach())  # as float32 holds it
    value = log_odds(tensor)
    value.sum().backward()
    assert value.item() == pytest.approx(mean - math.log(-math.expm1(mean)), rel=1e-5)
    assert tensor.grad.item() == pytest.approx(-1 / math.expm1(mean), rel=1e-5)


@pytest.mark.parametrize("mean", [0.0, -1e-9, -5e-8])
def test_a_model_that_is_sure_has_finite_odds_and_finite_gradients(mean):
    logprob = torch.tensor([mean, mean], requires_grad=True)
    loss = orpo_loss(logprob, torch.tensor([1, 1]), 1.0)
    loss.backward()
    assert loss.item() == pytest.approx(math.log(2), rel=1e-5)
    assert logprob.grad.isfinite().all()
    assert logprob.grad[1] > 0  # and the rejected one is still lowered


def test_half_precision_is_raised_first():
    assert log_odds(torch.tensor([-0.01], dtype=torch.bfloat16)).dtype == torch.float32


def test_the_first_step_by_hand(one_step, make_model, uneven_pairs, logprob):
    model = make_model(seed=3)
    chosen = [logprob(model, p.prompt, p.chosen) for p in uneven_pairs]
    rejected = [logprob(model, p.prompt, p.rejected) for p in uneven_pairs]
    loss = -sum(total for total, _ in chosen) / sum(count for _, count in chosen)
    for good, bad in zip(chosen, rejected, strict=True):
        odds = [math.exp(total / count) / (1 - math.exp(total / count)) for total, count in (good, bad)]
        loss += 0.3 * math.log(1 + odds[1] / odds[0]) / 3
    run = one_step(ORPO(weight=0.3), uneven_pairs)
    assert run.curve[0]["loss"] == pytest.approx(loss, rel=1e-5)
    assert run.ledger.scored_tokens == 0  # there is no reference


def test_padding_and_order_change_nothing(one_step, uneven_pairs):
    [plain] = one_step(ORPO(), uneven_pairs).curve
    for pairs, pad in ((uneven_pairs, 9), (uneven_pairs[::-1], 0)):
        [other] = one_step(ORPO(), pairs, pad).curve
        assert other["loss"] == pytest.approx(plain["loss"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_learns_what_was_chosen_and_prefers_it(train, batch_size):
    run = train(ORPO(lr=3e-3, batch_size=batch_size), tokens=8000)
    assert run.curve[-1]["margin"] > run.curve[0]["margin"] + 0.5
    assert run.curve[-1]["chosen"] > run.curve[0]["chosen"] + 1.0


def test_it_needs_no_stage_before():
    assert ORPO.after == ()


def test_the_same_seed_gives_the_same_weights(train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(ORPO(batch_size=4), tokens=1500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_a_pair_that_does_not_fit_is_counted_and_left_out(one_step, uneven_pairs, too_long):
    run = one_step(ORPO(), [*uneven_pairs, too_long])
    assert run.ledger.dropped_rows == 1
    assert run.curve[0]["loss"] == pytest.approx(one_step(ORPO(), uneven_pairs).curve[0]["loss"], rel=1e-5)


def test_a_batch_of_nothing_but_such_a_pair_is_passed_over(train, toy_data, too_long):
    few = dataclasses.replace(toy_data, pairs=[*toy_data.pairs[:2], too_long])
    run = train(ORPO(batch_size=1), tokens=1500, data=few)
    assert 0 < run.ledger.dropped_rows < len(run.curve)
    with pytest.raises(RuntimeError, match="without any forward pass"):
        train(ORPO(), data=dataclasses.replace(toy_data, pairs=[too_long]))


def test_without_pairs_it_says_so(tiny_model, toy_data):
    bare = dataclasses.replace(toy_data, pairs=())
    with pytest.raises(ValueError, match="nothing to train on"):
        ORPO().train(tiny_model, bare, Run(0, budget=10))
    with pytest.raises(DataError, match="orpo needs the view 'pairs'"):
        check_views(ORPO(), bare, "toy")
