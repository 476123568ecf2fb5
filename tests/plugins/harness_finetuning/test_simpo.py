"""SimPO: eq. (6) by hand, means and not sums, no reference."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness.cell import check_views
from harness.rows import DataError
from harness_finetuning.simpo import SimPO, simpo_loss


def test_by_hand():
    logprob, tokens = torch.tensor([-2.0, -6.0]), torch.tensor([2, 3])
    # means of -1 and -2 nats a token: -log sigmoid(2 * 1 - 0.5)
    assert simpo_loss(logprob, tokens, 2.0, 0.5).item() == pytest.approx(math.log(1 + math.exp(-1.5)), rel=1e-6)


def test_equal_means_cost_ln_of_1_plus_e_to_the_gamma():
    logprob, tokens = torch.tensor([-2.0, -8.0]), torch.tensor([1, 4])  # sums would differ by 6
    assert simpo_loss(logprob, tokens, 2.0, 0.0).item() == pytest.approx(math.log(2), rel=1e-6)
    assert simpo_loss(logprob, tokens, 2.0, 1.5).item() == pytest.approx(math.log(1 + math.exp(1.5)), rel=1e-6)


def test_means_rank_where_sums_would_rank_the_other_way():
    """A long chosen completion, likelier a token and less likely as a whole."""
    logprob, tokens = torch.tensor([-6.0, -4.0]), torch.tensor([6, 2])
    assert simpo_loss(logprob, tokens, 2.0, 0.0).item() < math.log(2)


def test_gradients_pull_the_right_way_and_are_shared_among_the_tokens():
    logprob = torch.tensor([-2.0, -8.0], requires_grad=True)
    simpo_loss(logprob, torch.tensor([1, 4]), 2.0, 0.0).backward()
    # beta * sigmoid(0) a token of the chosen (one) and of the rejected completion (four)
    assert torch.allclose(logprob.grad, torch.tensor([-1.0, 1.0 / 4]))


def test_the_first_step_by_hand(one_step, make_model, uneven_pairs, logprob):
    model = make_model(seed=3)
    gaps = []
    for pair in uneven_pairs:
        (chosen, of), (rejected, out_of) = (logprob(model, pair.prompt, t) for t in (pair.chosen, pair.rejected))
        gaps.append(chosen / of - rejected / out_of)
    run = one_step(SimPO(beta=2.5, gamma=0.7), uneven_pairs)
    [point] = run.curve
    assert point["loss"] == pytest.approx(sum(math.log(1 + math.exp(0.7 - 2.5 * g)) for g in gaps) / 3, rel=1e-5)
    assert point["margin"] == pytest.approx(sum(gaps) / 3, rel=1e-5)
    assert run.ledger.scored_tokens == 0  # there is no reference


def test_padding_and_order_change_nothing(one_step, uneven_pairs):
    [plain] = one_step(SimPO(), uneven_pairs).curve
    for pairs, pad in ((uneven_pairs, 9), (uneven_pairs[::-1], 0)):
        [other] = one_step(SimPO(), pairs, pad).curve
        assert other["loss"] == pytest.approx(plain["loss"], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_prefers_what_was_chosen(train, batch_size):
    run = train(SimPO(lr=1e-3, batch_size=batch_size), tokens=6000)
    assert run.curve[-1]["margin"] > run.curve[0]["margin"] + 0.5
    assert run.curve[-1]["loss"] < run.curve[0]["loss"]


def test_the_same_seed_gives_the_same_weights(train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(SimPO(batch_size=4), tokens=1500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_a_pair_that_does_not_fit_is_counted_and_left_out(one_step, uneven_pairs, too_long):
    run = one_step(SimPO(), [*uneven_pairs, too_long])
    assert run.ledger.dropped_rows == 1
    assert run.curve[0]["loss"] == pytest.approx(one_step(SimPO(), uneven_pairs).curve[0]["loss"], rel=1e-5)


def test_a_batch_of_nothing_but_such_a_pair_is_passed_over(train, toy_data, too_long):
    few = dataclasses.replace(toy_data, pairs=[*toy_data.pairs[:2], too_long])
    run = train(SimPO(batch_size=1), tokens=1500, data=few)
    assert 0 < run.ledger.dropped_rows < len(run.curve)
    with pytest.raises(RuntimeError, match="without any forward pass"):
        train(SimPO(), data=dataclasses.replace(toy_data, pairs=[too_long]))


def test_without_pairs_it_says_so(tiny_model, toy_data):
    bare = dataclasses.replace(toy_data, pairs=())
    with pytest.raises(ValueError, match="nothing to train on"):
        SimPO().train(tiny_model, bare, Run(0, budget=10))
    with pytest.raises(DataError, match="simpo needs the view 'pairs'"):
        check_views(SimPO(), bare, "toy")
