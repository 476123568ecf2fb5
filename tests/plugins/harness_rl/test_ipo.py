"""IPO: eq. (17) by hand, its target and its limits, its convention of length, and TRL's figures for it and for DPO."""

import copy
import dataclasses
import math

import pytest
import torch

from harness import Pair
from harness.toolbox import completion_logprob, encode_pairs, frozen_copy
from harness_rl.dpo import dpo_loss
from harness_rl.ipo import IPO, ipo_loss

PAIRS = [
    Pair("a", "1+1?", "A: 2", "A: no idea at all"),
    Pair("b", "2+20?", "T: 2+20=22. A: 22", "A: 5"),
    Pair("c", "How many is 3+1?", "A: 4", "B"),
]


def test_by_hand():
    # margins 0.3 - 0.1 and -0.2 - 0.4, target 1 / (2 * 2): squares of -0.05 and -0.85
    loss = ipo_loss(torch.tensor([0.3, -0.2, 0.1, 0.4]), beta=2.0)
    assert loss.item() == pytest.approx((0.05**2 + 0.85**2) / 2, rel=1e-5)


def test_the_margin_has_a_target_and_what_is_beyond_it_is_pulled_back():
    ratio = torch.tensor([0.5, 0.0], requires_grad=True)
    loss = ipo_loss(ratio, beta=1.0)
    assert loss.item() == 0
    (at,) = torch.autograd.grad(loss, ratio)
    assert not at.any()
    short, beyond = (torch.tensor([m, 0.0], requires_grad=True) for m in (0.2, 0.9))
    for ratio, sign in ((short, -1), (beyond, 1)):
        (gradient,) = torch.autograd.grad(ipo_loss(ratio, beta=1.0), ratio)
        assert gradient.sign().tolist() == [sign, -sign]


def test_swapping_the_pair_flips_the_gradient_at_the_start():
    ratio = torch.zeros(2, requires_grad=True)
    (one,) = torch.autograd.grad(ipo_loss(ratio, 0.3), ratio)
    (two,) = torch.autograd.grad(ipo_loss(ratio[[1, 0]], 0.3), ratio)
    assert one.any()
    assert torch.equal(one, -two)


def test_it_prefers_what_was_chosen_and_counts_the_reference(train, tiny_model, toy_data):
    before = frozen_copy(tiny_model)
    run = train(IPO(lr=1e-3, batch_size=4), tokens=10_000)
    assert run.curve[0]["loss"] == pytest.approx(0.25, rel=1e-5)  # 1 / (2 beta) squared
    assert run.curve[-1]["loss"] < 0.2
    pairs = toy_data.pairs
    rows = encode_pairs(tiny_model, [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs])
    chosen, rejected = (completion_logprob(tiny_model, rows) - completion_logprob(before, rows)).detach().chunk(2)
    assert (chosen > rejected).all()
    assert run.ledger.scored_tokens == run.ledger.trained_tokens  # the reference reads what the policy reads


def test_log_ratios_are_means_over_tokens_and_the_reference_never_moves(
    train, tiny_model, make_model, toy_data, monkeypatch
):
    """The loss of the first step, against another reference, from log-probabilities taken without the toolbox."""
    other = frozen_copy(make_model(seed=1))
    fingerprint = other.fingerprint()
    monkeypatch.setattr("harness_rl.ipo.frozen_copy", lambda _: other)
    start = frozen_copy(tiny_model)

    def ratio(prompt, text):
        ids, target = start.encode_prompt(prompt), start.encode_completion(text)
        with torch.no_grad():
            both = [m.module(torch.tensor([ids + target])).logits[0].log_softmax(-1) for m in (start, other)]
        sums = [sum(float(lp[len(ids) + t - 1, token]) for t, token in enumerate(target)) for lp in both]
        return (sums[0] - sums[1]) / len(target)

    margins = [ratio(p.prompt, p.chosen) - ratio(p.prompt, p.rejected) for p in PAIRS]
    run = train(IPO(batch_size=3, beta=0.4), tokens=1000, data=dataclasses.replace(toy_data, pairs=PAIRS))
    assert run.curve[0]["margin"] == pytest.approx(sum(margins) / 3, rel=1e-4)
    assert run.curve[0]["loss"] == pytest.approx(sum((m - 1.25) ** 2 for m in margins) / 3, rel=1e-4)
    assert other.fingerprint() == fingerprint


def test_a_pair_that_does_not_fit_is_left_out(train, toy_data):
    long = dataclasses.replace(toy_data.pairs[0], chosen="9" * 200)
    run = train(IPO(batch_size=2), tokens=4000, data=dataclasses.replace(toy_data, pairs=[long, *toy_data.pairs[1:]]))
    assert run.ledger.dropped_rows > 0
    with pytest.raises(RuntimeError, match="nothing was learnt"):
        train(IPO(), data=dataclasses.replace(toy_data, pairs=[long]))


# -- TRL's own loss code, on the same texts and weights


@pytest.fixture
def trl_loss(tmp_path, monkeypatch):
    """`trl_loss(model, reference, loss_type, beta)`: the loss of `DPOTrainer` on all pairs in one batch."""
    pytest.importorskip("trl")
    import datasets
    from trl import DPOConfig, DPOTrainer

    monkeypatch.setattr("trl.trainer.base_trainer.send_telemetry", lambda *a, **k: None)  # every trainer would report
    sides = {"prompt": "user", "chosen": "assistant", "rejected": "assistant"}
    rows = [{side: [{"role": role, "content": getattr(p, side)}] for side, role in sides.items()} for p in PAIRS]

    def go(model, reference, loss_type, beta):
        options = {"use_cpu": True, "bf16": False, "report_to": [], "gradient_checkpointing": False}
        trainer = DPOTrainer(
            model=copy.deepcopy(model.module),  # it patches what it is given
            ref_model=copy.deepcopy(reference.module),
            args=DPOConfig(str(tmp_path), loss_type=loss_type, beta=beta, max_length=128, **options),
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=copy.deepcopy(model.tokenizer),
        )
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(rows))])
        return trainer.compute_loss(trainer.model, batch).item()

    datasets.disable_progress_bars()
    yield go
    datasets.enable_progress_bars()


@pytest.mark.filterwarnings("ignore")  # TRL and its stack warn of their own future
@pytest.mark.parametrize("beta", [0.1, 1.5])
def test_dpo_and_ipo_are_trls(trl_loss, make_model, beta):
    model, reference = make_model(), make_model(seed=1)
    rows = encode_pairs(model, [(p.prompt, p.chosen) for p in PAIRS] + [(p.prompt, p.rejected) for p in PAIRS])
    with torch.no_grad():
        policy, start = completion_logprob(model, rows), completion_logprob(reference, rows)
    ours = dpo_loss(policy, start, beta).item()
    assert trl_loss(model, reference, "sigmoid", beta) == pytest.approx(ours, rel=1e-5)
    tokens = rows.completion_mask.sum(-1)
    theirs = trl_loss(model, reference, "ipo", beta)
    assert theirs == pytest.approx(ipo_loss((policy - start) / tokens, beta).item(), rel=1e-5)
    summed = ipo_loss(policy - start, beta).item()
    assert not math.isclose(theirs, summed, rel_tol=1e-2)  # the convention matters on these pairs
