"""Log-probability: the mean of the policy's own, at temperature 1, so that length is no merit; steps likewise."""

import math

import pytest
import torch

from harness import Completion, Run
from harness.toolbox import sample, solution_ends
from harness_test_time import log_probability as module
from harness_test_time.log_probability import LogProbability, mean_chances

TEXT = "T: 10+12=22. 22/2=11.\nA: 11"


def completion(model, text, *, eos=True):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens if eos else tokens[:-1], (), "eos" if eos else "stop")


def scores(model, *completions, prompt="1+1?"):
    return LogProbability().score(model, prompt, completions, Run(0))


@torch.no_grad()
def logprobs(model, said, prompt="1+1?"):
    """One token after the other, each by a pass of its own over all before it."""
    ids, found = model.encode_prompt(prompt), []
    for token in said.tokens:
        logits = model.module(input_ids=torch.tensor([ids])).logits[0, -1].float()
        found.append(float(logits.log_softmax(-1)[token]))
        ids = [*ids, token]
    return found


def test_it_is_the_geometric_mean_of_the_tokens_eos_among_them(any_model):
    said = completion(any_model, TEXT)
    [judged] = scores(any_model, said)
    found = logprobs(any_model, said)
    assert len(found) == len(TEXT) + 1
    assert judged.total == pytest.approx(math.exp(sum(found) / len(found)), rel=1e-4)
    assert 0 < judged.total < 1
    [partial] = scores(any_model, completion(any_model, TEXT, eos=False))
    assert partial.total == pytest.approx(math.exp(sum(found[:-1]) / len(found[:-1])), rel=1e-4)


def test_by_hand():
    assert mean_chances(torch.tensor([0.5, 0.125, 1.0]).log()).tolist() == pytest.approx([0.5, 0.25, 1 / 16 ** (1 / 3)])


def test_a_model_that_knows_nothing_says_one_in_v(tiny_model):
    for parameter in tiny_model.parameters():
        torch.nn.init.zeros_(parameter)
    [judged] = scores(tiny_model, completion(tiny_model, TEXT))
    uniform = pytest.approx(1 / tiny_model.module.config.vocab_size)
    assert judged.total == uniform
    assert judged.steps == (uniform, uniform)


def test_words_of_one_likelihood_are_worth_the_same_at_any_length(tiny_model, monkeypatch):
    monkeypatch.setattr(module, "token_logprobs", lambda model, rows: -1.0 * rows.completion_mask)
    judged = scores(tiny_model, completion(tiny_model, "A: 2"), completion(tiny_model, TEXT))
    assert [s.total for s in judged] == pytest.approx([math.exp(-1)] * 2)


def test_the_policy_is_read_at_temperature_one_whatever_sampled(tiny_model):
    for temperature, same in ((1.0, True), (0.5, False)):
        drawn = sample(tiny_model, "1+1?", Run(0, max_new_tokens=15), 4, temperature)
        own = [math.exp(sum(c.logprobs) / len(c.logprobs)) for c in drawn]
        judged = [s.total for s in scores(tiny_model, *drawn)]
        assert (judged == pytest.approx(own, rel=1e-4)) is same
    assert max(j / o for j, o in zip(judged, own, strict=True)) < 0.95


def test_steps_end_before_the_answer_line(tiny_model):
    said = completion(tiny_model, TEXT)
    found = logprobs(tiny_model, said)
    [judged] = scores(tiny_model, said)
    ends = solution_ends(tiny_model, said.tokens)
    assert [TEXT[:end] for end in ends] == ["T: 10+12=22.", "T: 10+12=22. 22/2=11."]
    assert judged.steps == pytest.approx([math.exp(sum(found[:end]) / end) for end in ends], rel=1e-4)
    assert scores(tiny_model, completion(tiny_model, "A: 2"))[0].steps == ()


def test_company_changes_nothing(tiny_model):
    said = [completion(tiny_model, text) for text in (TEXT, "A: 2", "", "T: 1+1=2.\nA: 2")]
    together = scores(tiny_model, *said)
    for one, judged in zip(said, together, strict=True):
        [alone] = scores(tiny_model, one)
        assert judged.total == pytest.approx(alone.total, rel=1e-4)
        assert judged.steps == pytest.approx(alone.steps, rel=1e-4)


def test_nothing_said_is_worth_nothing(tiny_model):
    nothing = Completion("", (), (), "length")
    too_long = Completion("1" * 200, (9,) * 200, (), "length")
    judged = scores(tiny_model, nothing, completion(tiny_model, "A: 2"), too_long)
    assert [(s.total, s.steps) for s in judged[::2]] == [(0.0, ()), (0.0, ())]
    assert judged[1].total > 0
    assert scores(tiny_model, nothing)[0].total == 0.0


def test_what_it_reads_is_booked_and_leaves_no_gradient(tiny_model):
    run, said = Run(0), [completion(tiny_model, TEXT), completion(tiny_model, "A: 2")]
    run.watch(tiny_model)
    LogProbability().score(tiny_model, "1+1?", said, run)
    prompt = len(tiny_model.encode_prompt("1+1?"))
    assert run.ledger.scored_tokens == sum(prompt + len(c.tokens) for c in said)
    assert (run.ledger.trained_tokens, run.ledger.model_calls) == (0, 1)
