"""Log-probabilities against a straightforward computation, one row at a time and without padding."""

import math

import pytest
import torch

from harness.toolbox import collate, completion_logprob, encode_pairs, llama, token_logprobs
from harness.toolbox.logprobs import read_completions

PAIRS = [
    ([1, 5, 6, 7], [8, 9, 2]),
    ([1, 5], [9, 2]),
    ([1, 30, 31, 32, 33, 34, 35], [2]),
    ([1, 6], [7, 8, 9, 10, 11, 2]),
]


def by_hand(model, prompt, completion, temperature=1.0):
    ids = torch.tensor([[*prompt, *completion]])
    logprobs = (model.module(ids).logits[0] / temperature).log_softmax(-1)
    return [float(logprobs[len(prompt) + i - 1, token]) for i, token in enumerate(completion)]


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_rows_equal_a_computation_without_padding(any_model, temperature):
    batch = collate(any_model, PAIRS)
    with torch.no_grad():
        tokens = token_logprobs(any_model, batch, temperature)
        sums = completion_logprob(any_model, PAIRS, temperature, groups=3)
        for row, pair in enumerate(PAIRS):
            expected = by_hand(any_model, *pair, temperature)
            assert tokens[row][batch.completion_mask[row]].tolist() == pytest.approx(expected, abs=1e-5)
            assert float(sums[row]) == pytest.approx(sum(expected), abs=1e-4)
    assert not bool(tokens[~batch.completion_mask].any())


def test_the_end_token_is_scored(tiny_model):
    batch = encode_pairs(tiny_model, [("7+5", "12")])
    assert batch.input_ids[batch.completion_mask].tolist()[-1] == tiny_model.eos
    with torch.no_grad():
        before = completion_logprob(tiny_model, batch)
        tiny_model.module.lm_head = torch.nn.Linear(32, tiny_model.module.config.vocab_size)
        torch.nn.init.zeros_(tiny_model.module.lm_head.weight)
        torch.nn.init.zeros_(tiny_model.module.lm_head.bias)
        uniform = completion_logprob(tiny_model, batch)
    assert float(uniform) == pytest.approx(-3 * math.log(tiny_model.module.config.vocab_size), abs=1e-5)  # 1, 2, eos
    assert float(before) != float(uniform)


def test_right_padding_changes_nothing(tiny_model):
    long = ([1] + [40] * 60, [41] * 30 + [2])
    with torch.no_grad():
        alone = [float(completion_logprob(tiny_model, [pair])) for pair in PAIRS]
        padded = completion_logprob(tiny_model, [*PAIRS, long], groups=1)
    assert padded[:-1].tolist() == pytest.approx(alone, abs=1e-4)


def gradient(model):
    flat = torch.cat([p.grad.flatten() for p in model.module.parameters()])
    model.module.zero_grad()
    return flat


def test_gradients_are_those_of_the_whole_batch_whatever_the_groups(any_model, plain_logprobs, apart):
    pairs = [*PAIRS[1:], PAIRS[0]]  # to be sorted by length and back: here the two are not the same
    weight = torch.tensor([1.0, -2.0, 3.0, 0.5])
    (plain_logprobs(any_model, collate(any_model, pairs)).sum(-1) * weight).sum().backward()
    expected = gradient(any_model)
    for groups in (1, 2, 4, 9):
        (completion_logprob(any_model, pairs, groups=groups) * weight).sum().backward()
        assert apart(gradient(any_model), expected) <= 1e-5


@pytest.fixture(params=["own pass", "module's pass"])
def whose(request, monkeypatch):
    if request.param == "module's pass":
        monkeypatch.setattr(llama, "supports", lambda module: False)


@pytest.mark.usefixtures("whose")
@pytest.mark.parametrize("read", [token_logprobs, lambda *given: read_completions(*given)[1]], ids=["words", "states"])
def test_logits_that_nothing_is_learnt_from_are_not_missed(any_model, plain_logprobs, apart, read):
    """They are never computed. Prompts are long here, so that the module's pass can leave out whole columns."""
    rows = collate(any_model, [([1, 9, 8, 7], [6, 5, 2]), ([1, 9, 8, 7, 6, 5], [2]), ([1, 9, 8], [7] * 6)])
    weight, gradients = torch.tensor([[1.0], [-2.0], [0.5]]), []
    found, plain = read(any_model, rows), plain_logprobs(any_model, rows)
    torch.testing.assert_close(found, plain, rtol=1e-5, atol=1e-5)
    for logprob_RT in (found, plain):
        (logprob_RT * weight).sum().backward()
        gradients.append(gradient(any_model))
    assert apart(*gradients) <= 1e-5


def test_temperature_zero_is_refused(tiny_model):
    with pytest.raises(ValueError, match="temperature"):
        token_logprobs(tiny_model, collate(tiny_model, PAIRS), 0.0)
