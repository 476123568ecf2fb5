"""DPO: eq. (7) by hand, its limits, and what it must do to a policy."""

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness.toolbox import completion_logprob, encode_pairs, frozen_copy
from harness_rl.dpo import DPO, dpo_loss


def test_by_hand():
    policy, reference = torch.tensor([-1.0, -4.0]), torch.tensor([-2.0, -3.0])
    # log-ratios +1 (chosen) and -1 (rejected): -log sigmoid(0.1 * 2)
    assert dpo_loss(policy, reference, 0.1).item() == pytest.approx(math.log(1 + math.exp(-0.2)), rel=1e-6)


def test_at_the_start_the_loss_is_ln_2_and_pulls_the_right_way():
    policy = torch.tensor([-3.0, -1.0, -2.0, -5.0], requires_grad=True)
    loss = dpo_loss(policy, policy.detach(), 0.1)
    assert loss.item() == pytest.approx(math.log(2), rel=1e-6)
    loss.backward()
    # the sign: descending raises chosen completions (first half) and lowers rejected ones
    assert torch.allclose(policy.grad, torch.tensor([-1.0, -1.0, 1.0, 1.0]) * 0.1 * 0.5 / 2)


def test_swapping_the_pair_flips_the_gradient_at_the_start():
    policy = torch.tensor([-3.0, -1.0], requires_grad=True)
    (one,) = torch.autograd.grad(dpo_loss(policy, policy.detach(), 0.3), policy)
    swapped = policy[[1, 0]]
    (two,) = torch.autograd.grad(dpo_loss(swapped, swapped.detach(), 0.3), policy)
    assert torch.allclose(one, -two)


def test_log_probabilities_are_summed_and_padding_changes_nothing(tiny_model):
    """A mean over tokens is another method; a pair beside a long one must weigh the same as alone."""
    short = [("1+1?", "A: 2")]
    long = [*short, ("1+1?", "A: " + "9" * 40)]
    alone = completion_logprob(tiny_model, encode_pairs(tiny_model, short))
    beside = completion_logprob(tiny_model, encode_pairs(tiny_model, long))
    assert torch.allclose(alone[0], beside[0], atol=1e-4)
    ids, target = tiny_model.encode_prompt("1+1?"), tiny_model.encode_completion("A: 2")
    logprobs = tiny_model.module(torch.tensor([ids + target])).logits[0].log_softmax(-1)
    by_hand = sum(logprobs[len(ids) + t - 1, token] for t, token in enumerate(target))
    assert torch.allclose(alone[0], by_hand, atol=1e-4)


def test_it_prefers_what_was_chosen_and_counts_the_reference(train, tiny_model, toy_data):
    before = frozen_copy(tiny_model)
    rows = encode_pairs(tiny_model, DPO().rows(toy_data.pairs))
    run = train(DPO(lr=1e-3, batch_size=4), tokens=10_000)
    assert run.curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-5)
    gain = completion_logprob(tiny_model, rows) - completion_logprob(before, rows)
    chosen, rejected = gain.detach().chunk(2)
    assert (chosen > rejected).all()
    assert run.ledger.scored_tokens == run.ledger.trained_tokens  # the reference reads what the policy reads


@pytest.mark.usefixtures("small_groups")
def test_a_step_has_the_gradient_of_eq_7_over_the_whole_batch(  # noqa: PLR0917 - fixtures are given by name
    train, tiny_model, toy_data, monkeypatch, plain_logprobs, apart
):
    """Reference and policy are read in groups, the reference as one where rows begin alike, and without gradients."""
    pairs = [dataclasses.replace(pair, chosen=pair.chosen + "." * k) for k, pair in enumerate(toy_data.pairs)]
    rows, start, method, far = encode_pairs(tiny_model, DPO().rows(pairs)), tiny_model.clone(), DPO(batch_size=12), []

    def compare(loss, optimizer):
        gradients = []
        ratio_R = (plain_logprobs(tiny_model, rows) - plain_logprobs(start, rows)).sum(-1)
        plain = -F.logsigmoid(method.beta * (ratio_R[:12] - ratio_R[12:])).mean()
        for one in (loss, plain):
            optimizer.zero_grad()
            one.backward()
            gradients.append(torch.cat([p.grad.flatten() for p in tiny_model.module.parameters()]))
        far.append(apart(*gradients))
        optimizer.step()

    monkeypatch.setattr("harness_rl.dpo.descend", compare)
    train(method, data=dataclasses.replace(toy_data, pairs=pairs))
    assert len(far) > 2  # from the second on, the policy is no longer the reference
    assert max(far) <= 1e-5


def test_the_reference_never_moves(train, tiny_model, monkeypatch):
    copies = []

    def remember(model):
        copies.append((frozen_copy(model), model.fingerprint()))
        return copies[-1][0]

    monkeypatch.setattr("harness_rl.dpo.frozen_copy", remember)
    train(DPO(batch_size=4), tokens=3000)
    [(reference, fingerprint)] = copies
    assert reference.fingerprint() == fingerprint != tiny_model.fingerprint()


def test_without_pairs_it_says_so(train, toy_data):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(DPO(), data=dataclasses.replace(toy_data, pairs=()))


def test_a_pair_that_does_not_fit_is_counted_and_left_out(train, toy_data):
    long = dataclasses.replace(toy_data.pairs[0], chosen="9" * 200)
    run = train(DPO(batch_size=1), tokens=4000, data=dataclasses.replace(toy_data, pairs=[long, *toy_data.pairs[1:]]))
    assert 0 < run.ledger.dropped_rows < len(run.curve)
    with pytest.raises(RuntimeError, match="nothing was learnt"):  # one side alone is never learnt from
        train(DPO(), data=dataclasses.replace(toy_data, pairs=[long]))
