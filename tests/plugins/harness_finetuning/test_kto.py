"""KTO: its loss and its reference point by hand; the point comes from mismatched rows and carries no gradient."""

import dataclasses
import math

import pytest
import torch

from harness import Pair, Run
from harness.cell import check_views
from harness.rows import DataError
from harness.toolbox import encode_pairs
from harness_finetuning.kto import KTO, kto_loss, mismatched, reference_point


def sigmoid(x):
    return 1 / (1 + math.exp(-x))


def test_by_hand():
    ratio, z0 = torch.tensor([1.0, -2.0]), torch.tensor(0.5)
    expected = (2.0 * (1 - sigmoid(0.1 * 0.5)) + 3.0 * (1 - sigmoid(0.1 * 2.5))) / 2
    assert kto_loss(ratio, z0, 0.1, 2.0, 3.0).item() == pytest.approx(expected, rel=1e-6)


def test_at_the_start_every_row_costs_half_its_weight():
    loss = kto_loss(torch.zeros(4), torch.zeros(()), 0.1, 1.0, 1.5)
    assert loss.item() == pytest.approx((0.5 + 0.75) / 2)


def test_gradients_pull_the_right_way_by_their_weights():
    ratio = torch.zeros(4, requires_grad=True)
    kto_loss(ratio, torch.zeros(()), 0.1, 1.0, 1.5).backward()
    # beta sigmoid (1 - sigmoid) = 0.1 / 4, over four rows
    assert torch.allclose(ratio.grad, torch.tensor([-1.0, -1.0, 1.5, 1.5]) * 0.1 / 4 / 4)


def test_gains_and_losses_saturate_on_both_sides():
    ratio = torch.tensor([500.0, -500.0], requires_grad=True)
    kto_loss(ratio, torch.zeros(()), 0.1).backward()
    assert ratio.grad.abs().max() < 1e-6


def test_the_reference_point_is_a_mean_clamped_and_detached():
    assert reference_point(torch.tensor([-1.0, 3.0])).item() == 1.0
    assert reference_point(torch.tensor([-3.0, 1.0])).item() == 0.0  # a KL divergence is never negative
    assert reference_point(torch.zeros(0)).item() == 0.0
    ratio_R, ratio_M = torch.zeros(2, requires_grad=True), torch.ones(2, requires_grad=True)
    kto_loss(ratio_R, reference_point(ratio_M), 0.1).backward()
    assert ratio_R.grad is not None
    assert ratio_M.grad is None


def test_mismatched_rows_have_another_questions_completion():
    rows = [("x1", "a"), ("x2", "b"), ("x3", "c"), ("x1", "d"), ("x2", "e"), ("x3", "f")]
    assert mismatched(rows) == [("x1", "b"), ("x2", "c"), ("x3", "d"), ("x1", "e"), ("x2", "f"), ("x3", "a")]
    assert mismatched([("x1", "a"), ("x1", "b")]) == []  # one question: every completion belongs to it
    assert mismatched([("x1", "a"), ("x1", "b"), ("x2", "c")]) == [("x1", "c"), ("x2", "a")]


@pytest.mark.parametrize("other", [4, 9])
def test_the_first_step_by_hand(one_step, make_model, uneven_pairs, logprob, other):
    """With a reference unlike the policy, so that nothing is 0; against the second one the estimate must be clamped."""
    model, reference = make_model(seed=3), make_model(seed=other)

    def ratio(prompt, completion):
        return logprob(model, prompt, completion)[0] - logprob(reference, prompt, completion)[0]

    order = next(Run(7, budget=1).batches(uneven_pairs, 16))
    rows = [(p.prompt, p.chosen) for p in order] + [(p.prompt, p.rejected) for p in order]
    crossed = [(rows[i][0], rows[(i + 1) % 6][1]) for i in range(6)]
    z0 = sum(ratio(*row) for row in crossed) / 6
    assert (z0 < 0) == (other == 9)
    z0 = max(0.0, z0)
    expected = sum(1 - sigmoid(0.05 * (ratio(*row) - z0)) for row in rows[:3])
    expected += sum(1.3 * (1 - sigmoid(0.05 * (z0 - ratio(*row)))) for row in rows[3:])
    [point] = one_step(KTO(beta=0.05, undesirable=1.3), uneven_pairs, reference=reference).curve
    assert point["z0"] == pytest.approx(z0, rel=1e-4)
    assert point["loss"] == pytest.approx(expected / 6, rel=1e-5)


def test_only_matched_rows_through_the_policy_have_a_gradient(one_step, make_model, uneven_pairs):
    reference = make_model(seed=4)  # its weights ask for gradients, and must get none
    run = one_step(KTO(), uneven_pairs, reference=reference)
    rows = [(p.prompt, t) for p in uneven_pairs for t in (p.chosen, p.rejected)]
    assert run.ledger.trained_tokens == int(encode_pairs(reference, rows).lengths.sum())
    assert all(p.grad is None for p in reference.module.parameters())


def test_the_reference_point_shifts_the_loss_and_not_the_graph(one_step, make_model, uneven_pairs, monkeypatch):
    seen = []
    monkeypatch.setattr("harness_finetuning.kto.kto_loss", lambda *a: seen.append(a[1]) or kto_loss(*a))
    one_step(KTO(), uneven_pairs, reference=make_model(seed=4))
    assert not seen[0].requires_grad
    assert seen[0] > 0


def test_padding_changes_nothing(one_step, make_model, uneven_pairs):
    points = [one_step(KTO(), uneven_pairs, pad, make_model(seed=4)).curve[0] for pad in (0, 9)]
    for name in ("loss", "z0", "margin"):
        assert points[1][name] == pytest.approx(points[0][name], rel=1e-5)


@pytest.mark.parametrize("batch_size", [1, 5])
def test_it_raises_good_completions_over_bad_ones(train, batch_size):
    run = train(KTO(lr=1e-3, batch_size=batch_size), tokens=8000)
    assert run.curve[0]["loss"] == pytest.approx(0.5)  # the policy is the reference
    assert run.curve[-1]["margin"] > 2.0
    assert run.curve[-1]["loss"] < 0.47
    if batch_size == 1:
        assert {point["z0"] for point in run.curve} == {0.0}


def test_the_reference_never_moves(train, tiny_model, monkeypatch):
    from harness.toolbox import frozen_copy

    copies = []
    monkeypatch.setattr("harness_finetuning.kto.frozen_copy", lambda m: copies.append(frozen_copy(m)) or copies[0])
    before = tiny_model.fingerprint()
    train(KTO(batch_size=4), tokens=3000)
    assert copies[0].fingerprint() == before != tiny_model.fingerprint()


def test_the_same_seed_gives_the_same_weights(train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(KTO(batch_size=4), tokens=3000, model=model)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_a_pair_that_does_not_fit_is_counted_and_left_out(one_step, make_model, too_long, monkeypatch):
    """Of the mismatched rows too, one of which has the same completion: it must not pull z0 towards 0."""
    seen = []
    monkeypatch.setattr(
        "harness_finetuning.kto.reference_point", lambda ratio: seen.append(len(ratio)) or reference_point(ratio)
    )
    monkeypatch.setattr("harness_finetuning.kto.kto_loss", lambda *a: seen.append(len(a[0])) or kto_loss(*a))
    run = one_step(KTO(), [Pair("a", "1+1?", "A: 2", "A: 3"), too_long], reference=make_model(seed=4))
    assert seen == [3, 2]
    assert run.ledger.dropped_rows == 2


def test_a_batch_of_nothing_but_such_a_pair_is_passed_over(train, toy_data, too_long):
    few = dataclasses.replace(toy_data, pairs=[*toy_data.pairs[:2], too_long])
    run = train(KTO(batch_size=1), tokens=1500, data=few)
    assert 0 < run.ledger.dropped_rows < len(run.curve)
    with pytest.raises(RuntimeError, match="without any forward pass"):
        train(KTO(), data=dataclasses.replace(toy_data, pairs=[too_long]))


def test_without_pairs_it_says_so(tiny_model, toy_data):
    bare = dataclasses.replace(toy_data, pairs=())
    with pytest.raises(ValueError, match="nothing to train on"):
        KTO().train(tiny_model, bare, Run(0, budget=10))
    with pytest.raises(DataError, match="kto needs the view 'pairs'"):
        check_views(KTO(), bare, "toy")
