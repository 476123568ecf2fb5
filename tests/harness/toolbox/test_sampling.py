"""Samples: their distribution, their independence of the batch, their limits, budgets and books."""

import dataclasses
import math
from collections import Counter

import pytest
import torch
from scipy import stats

from harness.meter import BudgetSpentError, Run, forward_flops
from harness.toolbox import (
    SampleRequest,
    charge,
    collate,
    completion_logprob,
    draw,
    fast_decoder,
    llama,
    sample,
    sample_many,
    token_logprobs,
)


@pytest.fixture(params=["fast", "generate"])
def decoder(request, monkeypatch):
    if request.param == "generate":
        monkeypatch.setattr(llama, "supports", lambda module: False)
    return request.param


def request_of(model, text, seeds=(1, 2, 3), **options):
    return SampleRequest(tuple(model.encode_prompt(text)), tuple(seeds), **{"max_new_tokens": 20, **options})


def tokens_of(drawn):
    return [[c.tokens for c in completions] for completions in drawn]


def test_samples_do_not_depend_on_what_else_is_in_the_batch(tiny_model, decoder):
    requests = [
        request_of(tiny_model, text, range(10 * i, 10 * i + 3))
        for i, text in enumerate(["7+5", "a longer one", "x", "Bo"])
    ]
    together = tokens_of(draw(tiny_model, requests))
    assert together == [tokens_of(draw(tiny_model, [r]))[0] for r in requests]
    assert together == tokens_of(draw(tiny_model, requests, max_rows=5))
    assert together[::-1] == tokens_of(draw(tiny_model, requests[::-1]))
    first = dataclasses.replace(requests[0], seeds=requests[0].seeds[1:2])
    assert tokens_of(draw(tiny_model, [first])) == [together[0][1:2]]
    shorter = dataclasses.replace(requests[0], max_new_tokens=7)
    assert tokens_of(draw(tiny_model, [shorter]))[0] == [t[:7] for t in together[0]]
    assert len({t for rows in together for t in rows}) == 12


def test_temperatures_may_be_mixed(tiny_model):
    requests = [request_of(tiny_model, "7+5", temperature=t) for t in (0.0, 0.5, 1.0)]
    assert tokens_of(draw(tiny_model, requests)) == [tokens_of(draw(tiny_model, [r]))[0] for r in requests]


@torch.no_grad()
def chances(model, prompt, temperature, longest, begun=()):
    """Every completion of a prompt with its probability, by the module's own pass over what stands before a token."""
    if len(begun) == longest or model.eos in begun:
        return {begun: 1.0}
    logits_V = model.module(torch.tensor([[*prompt, *begun]])).logits[0, -1].double()
    found = {}
    for token, chance in enumerate((logits_V / temperature).softmax(-1).tolist()):
        rest = chances(model, prompt, temperature, longest, (*begun, token))
        found |= {completion: chance * of_rest for completion, of_rest in rest.items()}
    return found


def assert_follows(drawn, chances):
    """The chi-square test; what is too rare for it counts as one kind."""
    seen, common = Counter(c.tokens for c in drawn), [k for k, p in chances.items() if p * len(drawn) >= 5]
    assert seen.keys() <= chances.keys()
    counts, wanted = [seen[k] for k in common], [chances[k] * len(drawn) for k in common]
    if (rest := len(drawn) - sum(wanted)) > 1e-6 * len(drawn):
        counts, wanted = [*counts, len(drawn) - sum(counts)], [*wanted, rest]
    assert stats.chisquare(counts, [w * sum(counts) / sum(wanted) for w in wanted]).pvalue > 0.001


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_first_tokens_follow_the_softmax(tiny_model, decoder, temperature):
    ids, n = tuple(tiny_model.encode_prompt("7+5")), 20_000 if decoder == "fast" else 4_000
    drawn = draw(tiny_model, [SampleRequest(ids, tuple(range(n)), temperature, 1)])[0]
    assert_follows(drawn, chances(tiny_model, ids, temperature, 1))


@pytest.mark.parametrize("family", ["llama", "qwen2", "mistral"])
def test_whole_completions_follow_the_softmax_of_all_that_stands_before_each_token(
    make_model, decoder, family, monkeypatch
):
    """Of five words every completion can be counted. The third token sees what two prompts share and two of its own.

    There is no room for all, so that most begin while others go on.
    """
    monkeypatch.setattr(fast_decoder, "REFILL", {})
    model, prompts = make_model(family, vocab_size=5, sharpness=0.6), [(1, 4, 3), (1, 3, 3, 4, 0, 4)]
    drawn, n, size = ([], []), 10_240 if decoder == "fast" else 2_560, 128
    for first in range(0, n, size):  # both prompts in every batch, one padded to the other
        seeds = tuple(range(first, first + size))
        for number, rows in enumerate(draw(model, [SampleRequest(p, seeds, 0.8, 3) for p in prompts], 200)):
            drawn[number].extend(rows)
    for prompt, rows in zip(prompts, drawn, strict=True):
        assert_follows(rows, chances(model, prompt, 0.8, 3))


@pytest.mark.parametrize("temperature", [1.0, 0.7, 0.0])
def test_logprobs_are_those_of_a_training_forward_pass(any_model, decoder, temperature):
    requests = [request_of(any_model, t, temperature=temperature) for t in ("7+5", "a longer one")]
    drawn = draw(any_model, requests)
    pairs = [(r.prompt_ids, c.tokens) for r, rows in zip(requests, drawn, strict=True) for c in rows]
    batch = collate(any_model, pairs)
    with torch.no_grad():
        again = token_logprobs(any_model, batch, temperature or 1.0)
        sums = completion_logprob(any_model, pairs, temperature or 1.0)
    flat = [c for rows in drawn for c in rows]
    for row, completion in enumerate(flat):
        assert again[row][batch.completion_mask[row]].tolist() == pytest.approx(completion.logprobs, abs=1e-4)
        assert float(sums[row]) == pytest.approx(sum(completion.logprobs), abs=1e-3)


def test_finish_reasons_and_the_end_token(tiny_model, decoder):
    request = request_of(tiny_model, "7+5", range(40), max_new_tokens=30)
    tiny_model.tokenizer.eos_token = "e"  # noqa: S105
    rows = draw(tiny_model, [request])[0]
    assert {row.finish for row in rows} == {"eos", "length"}
    for row in rows:
        assert len(row.tokens) == len(row.logprobs) <= 30
        assert tiny_model.eos not in row.tokens[:-1]
        assert (row.tokens[-1] == tiny_model.eos) == (row.finish == "eos")
        assert "e" not in row.text
        assert row.finish == "eos" or len(row.tokens) == 30


def test_stop_strings_end_a_row_and_are_cut_off(tiny_model, decoder):
    free = draw(tiny_model, [request_of(tiny_model, "7+5", max_new_tokens=30)])[0]
    stop = free[0].text[5:7]
    rows = draw(tiny_model, [request_of(tiny_model, "7+5", max_new_tokens=30, stop=(stop, "never this"))])[0]
    place = free[0].text.index(stop)
    assert rows[0].finish == "stop"
    assert rows[0].text == free[0].text[:place]
    assert rows[0].tokens == free[0].tokens[: place + 2]
    for row, whole in zip(rows, free, strict=True):
        assert whole.text.startswith(row.text)
        assert stop not in row.text


def test_no_sequence_is_longer_than_the_context(tiny_model, decoder):
    ids = tuple([1] + [10] * (tiny_model.context - 4))
    rows = draw(tiny_model, [SampleRequest(ids, (1, 2), 1.0, 50)])[0]
    assert max(len(row.tokens) for row in rows) == 3
    [row] = draw(tiny_model, [SampleRequest((1,) * tiny_model.context, (1,), 1.0, 50)])[0]
    assert (row.text, row.tokens, row.finish) == ("", (), "length")


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"n": 0}, "n "),
        ({"temperature": -0.1}, "temperature"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"temperature": math.nan}, "temperature"),
        ({"stop": "text"}, "stop"),
        ({"stop": ("",)}, "stop"),
    ],
)
def test_what_is_out_of_range_is_named(tiny_model, options, field):
    with pytest.raises(ValueError, match=field):
        sample(tiny_model, "7+5", Run(0, problem_id="p"), **options)
    with pytest.raises(ValueError, match=field):
        sample_many(tiny_model, ["7+5"], Run(0), ["p"], **{"n": 1, **options})


def test_sample_i_is_the_same_however_it_is_asked_for(tiny_model):
    run = Run(3, problem_id="p", max_new_tokens=12)
    four = sample(tiny_model, "7+5", run, n=4)
    again = Run(3, problem_id="p", max_new_tokens=12)
    one_by_one = [sample(tiny_model, "7+5", again)[0] for _ in range(4)]
    assert [c.tokens for c in one_by_one] == [c.tokens for c in four]
    rolled = sample_many(tiny_model, ["x", "7+5"], Run(3, max_new_tokens=12), ["q", "p"], n=4)
    assert [c.tokens for c in rolled[1]] == [c.tokens for c in four]


def test_the_books(tiny_model, decoder):
    run = Run(0, problem_id="p", max_new_tokens=9)
    run.watch(tiny_model)
    rows = sample(tiny_model, "7+5", run, n=3)
    prompt, sampled = len(tiny_model.encode_prompt("7+5")), sum(len(c.tokens) for c in rows)
    ledger = run.ledger
    assert (ledger.prompt_tokens, ledger.reused_tokens) == (3 * prompt, 2 * prompt)
    assert (ledger.sampled_tokens, ledger.model_calls) == (sampled, 3)
    assert (ledger.scored_tokens, ledger.trained_tokens) == (0, 0)
    size = tiny_model.size
    by_hand = forward_flops(size, prompt, prompt**2)
    for row in rows:
        by_hand += sum(forward_flops(size, 1, prompt + i) for i in range(1, len(row.tokens)))
    assert ledger.flops == pytest.approx(by_hand)


def test_what_a_teacher_writes_is_booked_beside_the_budget(tiny_model):
    run = Run(0, budget=50, max_new_tokens=9, open_model=lambda name: tiny_model)
    rows = sample_many(run.model("teacher"), ["7+5"], run, ["p"], n=3)[0]
    prompt, sampled = len(tiny_model.encode_prompt("7+5")), sum(len(c.tokens) for c in rows)
    assert (run.ledger.prompt_tokens, run.ledger.sampled_tokens) == (3 * prompt, sampled)
    assert (run.ledger.other_tokens, run.spent) == (prompt + sampled, 0)  # the cache holds the prompt for two of three


def test_training_forwards_are_counted_once(tiny_model):
    run = Run(0)
    run.watch(tiny_model)
    pairs = [([1, 5, 6], [7, 2]), ([1, 5], [7, 8, 9, 2])]
    completion_logprob(tiny_model, pairs, groups=2)
    assert (run.ledger.trained_tokens, run.ledger.model_calls) == (11, 2)
    with torch.no_grad():
        completion_logprob(tiny_model, pairs, groups=2)
    assert (run.ledger.trained_tokens, run.ledger.scored_tokens) == (11, 11)


@pytest.mark.parametrize("budget", [1, 7, 20, 33, 64, 100])
def test_a_questions_budget_is_never_exceeded_and_is_used_up(tiny_model, budget):
    run = Run(0, budget=budget, counts="sampled_tokens", problem_id="p", max_new_tokens=20)
    rows = sample(tiny_model, "7+5", run, n=50)
    assert run.spent == sum(len(c.tokens) for c in rows) <= budget
    assert run.left == 0
    assert all(len(c.tokens) == 20 or c.finish == "eos" for c in rows[:-1]), (
        "only the last row may be cut by the budget"
    )
    with pytest.raises(BudgetSpentError):
        sample(tiny_model, "7+5", run)


def test_a_training_budget_pays_for_prompts_too(tiny_model):
    run = Run(0, budget=60, problem_id="p", max_new_tokens=20)
    sample(tiny_model, "7+5", run, n=50)
    assert run.spent <= 60
    run = Run(0, budget=0)
    with pytest.raises(BudgetSpentError):
        sample_many(tiny_model, ["x"], run, ["x"], n=1)


def test_requests_go_through_submit(tiny_model):
    asked = []

    def submit(kind, payload):
        asked.append((kind, payload))
        run, model, [request] = payload
        [drawn] = draw(model, [request])
        charge(run, model, request, drawn)
        return [drawn]

    run = Run(0, problem_id="p", max_new_tokens=5, submit=submit)
    rows = sample(tiny_model, "7+5", run, n=2, temperature=0.5, stop=["x"])
    [(kind, (_, model, [request]))] = asked
    assert (kind, model, len(rows)) == ("sample", tiny_model, 2)
    assert request.stop == ("x",)
    assert request.temperature == 0.5


def test_empty_requests_draw_nothing(tiny_model):
    assert draw(tiny_model, []) == []
    assert draw(tiny_model, [SampleRequest((1, 5), ())]) == [[]]
    with pytest.raises(ValueError, match="prompt_ids"):
        SampleRequest((), (1,))
