"""Preferred-FT: supervised fine-tuning on chosen completions, and the rejected ones are never read."""

import dataclasses
import math

import pytest
import torch

from harness import Pair, Run
from harness.cell import check_views
from harness.rows import DataError
from harness.toolbox import encode_pairs
from harness_finetuning.preference_sft import PreferenceSFT


def test_the_loss_by_hand_is_a_mean_over_all_chosen_tokens(one_step, make_model, uneven_pairs, logprob):
    parts = [logprob(make_model(seed=3), p.prompt, p.chosen) for p in uneven_pairs]
    by_hand = -sum(total for total, _ in parts) / sum(count for _, count in parts)
    [point] = one_step(PreferenceSFT(), uneven_pairs).curve
    assert point["loss"] == pytest.approx(by_hand, rel=1e-5)
    mean_of_means = -sum(total / count for total, count in parts) / len(parts)
    assert mean_of_means != pytest.approx(by_hand, rel=1e-2)  # the two can be told apart here


def test_a_uniform_model_has_loss_ln_v(tiny_model, train):
    torch.nn.init.zeros_(tiny_model.module.lm_head.weight)
    run = train(PreferenceSFT(), tokens=1)
    assert run.curve[0]["loss"] == pytest.approx(math.log(tiny_model.module.config.vocab_size), rel=1e-5)


def test_padding_and_order_change_nothing(one_step, uneven_pairs):
    [plain] = one_step(PreferenceSFT(), uneven_pairs).curve
    for pairs, pad in ((uneven_pairs, 9), (uneven_pairs[::-1], 0)):
        [other] = one_step(PreferenceSFT(), pairs, pad).curve
        assert other["loss"] == pytest.approx(plain["loss"], rel=1e-5)


def test_rejected_completions_are_never_read(train, toy_data, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    other = [dataclasses.replace(p, rejected="another one") for p in toy_data.pairs]
    train(PreferenceSFT(), 1500, toy_data, models[0])
    train(PreferenceSFT(), 1500, dataclasses.replace(toy_data, pairs=other), models[1])
    assert models[0].fingerprint() == models[1].fingerprint()


def test_a_completion_that_was_chosen_twice_is_one_example(one_step, tiny_model):
    pairs = [Pair("a", "1+1?", "A: 2", "A: 3"), Pair("b", "1+1?", "A: 2", "A: 4")]
    run = one_step(PreferenceSFT(), pairs)
    assert run.ledger.trained_tokens == int(encode_pairs(tiny_model, [("1+1?", "A: 2")]).lengths.sum())


def test_it_learns_what_was_chosen(train):
    run = train(PreferenceSFT(lr=1e-2, batch_size=5), tokens=6000)  # batches of 5, 5 and 2
    assert run.curve[-1]["loss"] < 0.5 * run.curve[0]["loss"]
    assert run.ledger.trained_tokens == run.ledger.total_tokens


def test_the_same_seed_gives_the_same_weights(train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(PreferenceSFT(batch_size=4), tokens=1500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_what_does_not_fit_is_counted_and_not_learnt(one_step, uneven_pairs, too_long):
    run = one_step(PreferenceSFT(), [*uneven_pairs, too_long])
    assert run.ledger.dropped_rows == 1
    assert run.curve[0]["loss"] == pytest.approx(one_step(PreferenceSFT(), uneven_pairs).curve[0]["loss"], rel=1e-5)


def test_without_pairs_it_says_so(tiny_model, toy_data):
    bare = dataclasses.replace(toy_data, pairs=())
    with pytest.raises(ValueError, match="nothing to train on"):
        PreferenceSFT().train(tiny_model, bare, Run(0, budget=10))
    with pytest.raises(DataError, match="preference-sft needs the view 'pairs'"):
        check_views(PreferenceSFT(), bare, "toy")
