"""Training steps: exact accumulation, divergence, schedules, frozen copies."""

import math

import pytest
import torch

from harness.meter import DivergedError, Run
from harness.toolbox import (
    accumulate,
    adamw,
    completion_loss,
    cosine_with_warmup,
    descend,
    encode_pairs,
    frozen_copy,
    set_rate,
    token_logprobs,
    update,
)

EXAMPLES = [("7+5", "12"), ("Finn has 10 balls. How many?", "A: 10"), ("a", "T: 3+4=7. 7*2=14.\nA: 14"), ("Bo", "9")]


def gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.module.parameters()]).clone()
    model.module.zero_grad()
    return flat


def test_groups_add_up_to_the_gradient_of_the_whole_batch(any_model, plain_logprobs, apart):
    batch = encode_pairs(any_model, EXAMPLES)
    whole = -plain_logprobs(any_model, batch).sum() / batch.tokens
    whole.backward()
    expected = gradient(any_model)
    for groups in (1, 2, 3, 4):
        assert completion_loss(any_model, EXAMPLES, groups=groups) == pytest.approx(whole.item(), rel=1e-5)
        assert apart(gradient(any_model), expected) <= 1e-5


def test_a_uniform_model_has_a_loss_of_ln_v(tiny_model):
    with torch.no_grad():
        tiny_model.module.lm_head.weight.zero_()
    assert completion_loss(tiny_model, EXAMPLES) == pytest.approx(
        math.log(tiny_model.module.config.vocab_size), rel=1e-5
    )


def test_labels_of_prompt_tokens_do_not_count(tiny_model):
    batch = encode_pairs(tiny_model, EXAMPLES[:1])
    logits = tiny_model.module(batch.input_ids).logits
    begins = len(tiny_model.encode_prompt(EXAMPLES[0][0]))
    loss = (
        -logits[0].log_softmax(-1)[range(begins - 1, batch.input_ids.shape[1] - 1), batch.input_ids[0, begins:]].mean()
    )
    assert completion_loss(tiny_model, EXAMPLES[:1], backward=False) == pytest.approx(loss.item(), rel=1e-5)


def test_measuring_leaves_no_gradient(tiny_model):
    completion_loss(tiny_model, EXAMPLES, backward=False)
    assert all(p.grad is None for p in tiny_model.module.parameters())


def test_training_learns_the_examples_and_the_end(tiny_model):
    optimizer = adamw(tiny_model, 1e-2)
    first = completion_loss(tiny_model, EXAMPLES)
    for _ in range(60):
        update(optimizer)
        last = completion_loss(tiny_model, EXAMPLES)
    assert last < 0.05 < first


def test_a_step_by_hand():
    weight = torch.nn.Parameter(torch.tensor([3.0, 4.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    assert descend((weight**2).sum() / 2, optimizer) == pytest.approx(5.0)
    assert weight.tolist() == pytest.approx([3.0 - 0.06, 4.0 - 0.08])  # clipped to norm 1
    assert weight.grad is None
    descend(weight.sum(), optimizer, [weight], max_norm=100.0)
    assert weight.tolist() == pytest.approx([2.84, 3.82])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_number_that_is_not_finite_stops_training_and_leaves_the_weights(bad):
    weight = torch.nn.Parameter(torch.tensor([3.0]))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    with pytest.raises(DivergedError, match="loss"):
        descend((weight * bad).sum(), optimizer)
    weight.grad = torch.tensor([bad])
    with pytest.raises(DivergedError, match="norm"):
        update(optimizer)
    assert weight.tolist() == [3.0]


def test_accumulate_finds_rows_by_index_and_refuses_nothing_to_learn(tiny_model, plain_logprobs, apart):
    batch = encode_pairs(tiny_model, EXAMPLES)
    advantage = torch.tensor([1.0, -1.0, 0.5, 2.0])

    def loss_sum(group):
        return -(token_logprobs(tiny_model, group).sum(-1) * advantage[group.index]).sum()

    value = accumulate(batch, loss_sum, 4, groups=3)
    grouped = gradient(tiny_model)
    whole = -(plain_logprobs(tiny_model, batch).sum(-1) * advantage).sum() / 4
    whole.backward()
    assert value == pytest.approx(whole.item(), rel=1e-5)
    assert apart(grouped, gradient(tiny_model)) <= 1e-5
    with pytest.raises(ValueError, match="no row"):
        accumulate(batch, loss_sum, 0)


def test_the_schedule():
    run = Run(0, budget=1000)
    factors = []
    for spent in (0, 50, 100, 550, 1000, 2000):
        run.ledger.trained_tokens = spent
        factors.append(cosine_with_warmup(run, warmup=0.1))
    assert factors == pytest.approx([0.1, 0.55, 1.0, 0.55, 0.1, 0.1])
    assert cosine_with_warmup(Run(0)) == 1.0
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    set_rate(optimizer, 0.25)
    assert [g["lr"] for g in optimizer.param_groups] == [0.25]


def test_a_frozen_copy_is_counted_and_stays(tiny_model):
    run = Run(0)
    run.watch(tiny_model)
    reference = frozen_copy(tiny_model)
    before = reference.fingerprint()
    assert not any(p.requires_grad for p in reference.parameters())
    assert not reference.module.training
    assert completion_loss(tiny_model, EXAMPLES) > 0
    update(adamw(tiny_model, 1e-2))
    assert reference.fingerprint() == before != tiny_model.fingerprint()
    trained = run.ledger.trained_tokens
    completion_loss(reference, EXAMPLES, backward=False)
    assert (run.ledger.trained_tokens, run.ledger.scored_tokens) == (trained, trained)
