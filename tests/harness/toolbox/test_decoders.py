"""The fast decoder against `generate`, and the two decoders against each other."""

import dataclasses
import math
from itertools import chain

import pytest
import torch
from transformers import GenerationConfig, GPT2Config, GPT2LMHeadModel

from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu
from harness.toolbox import SampleRequest, draw, fast_decoder, llama, queue
from harness.toolbox.fast_decoder import FastDecoder
from harness.toolbox.queue import Queue

pytestmark = pytest.mark.usefixtures("either_product")

PROMPTS = ["7+5", "Finn has 10 balls. Finn buys 12 more.", "a", "Zed has 3.", "Ann and Bo", "7+5"]


def requests_for(model, n=1, temperature=0.0, limit=24, stop=()):
    return [
        SampleRequest(tuple(model.encode_prompt(p)), tuple(range(100 * i, 100 * i + n)), temperature, limit, stop)
        for i, p in enumerate(PROMPTS)
    ]


def end_early(model, temperature=0.0):
    """Make the token that comes first at the most different places the end of a row, so that rows end one by one."""
    rows = [row.tokens for rows in draw(model, requests_for(model, 3, temperature, 40)) for row in rows]
    places = {token: {row.index(token) for row in rows if token in row} for token in set().union(*rows)}
    best = max(sorted(places), key=lambda token: len(places[token]))
    model.tokenizer.eos_token = model.tokenizer.convert_ids_to_tokens(best)


def by_generate(model, ids, limit):
    out = model.module.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        generation_config=GenerationConfig(
            do_sample=False, max_new_tokens=limit, eos_token_id=model.eos, pad_token_id=model.pad
        ),
    )
    return tuple(out[0, len(ids) :].tolist())


def through_generate(monkeypatch, model, requests, **options):
    with monkeypatch.context() as patch:
        patch.setattr(llama, "supports", lambda module: False)
        return draw(model, requests, **options)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_greedy_equals_generate_token_for_token(any_model, make_model, seed):
    model = make_model(any_model.name.removeprefix("tiny-"), seed=seed)
    end_early(model)
    assert llama.supports(model.module)
    drawn = draw(model, requests_for(model, n=3, limit=40))
    lengths = set()
    for request, rows in zip(requests_for(model), drawn, strict=True):
        expected = by_generate(model, request.prompt_ids, 40)
        assert [row.tokens for row in rows] == [expected] * 3
        lengths.add(len(expected))
    assert len(lengths) > 1, "no row stopped early: the test would not see a row that is dropped wrongly"


@pytest.mark.parametrize("max_rows", [None, 5])
def test_rows_of_a_prompt_that_end_one_by_one_leave_the_others_what_generate_says(any_model, max_rows):
    """Some end by themselves, some at their limit. Batches of five begin amid the rows of a prompt."""
    end_early(any_model)
    wanted = {request.prompt_ids: by_generate(any_model, request.prompt_ids, 40) for request in requests_for(any_model)}
    limits = (1, 40, 2, 3, 5, 8, 13, 30)
    requests = [dataclasses.replace(r, max_new_tokens=limit) for limit in limits for r in requests_for(any_model)]
    for request, [row] in zip(requests, draw(any_model, requests, max_rows), strict=True):
        assert row.tokens == wanted[request.prompt_ids][: request.max_new_tokens]
    assert len(set(map(len, wanted.values()))) > 1


@pytest.mark.parametrize("max_rows", [7, 2])
def test_rows_in_the_places_of_ended_ones_draw_what_generate_says(any_model, monkeypatch, max_rows):
    end_early(any_model)
    seen, step, taken, take = [], FastDecoder.step, [], Queue.take

    def watched_take(self, alive=0):
        if (rows := take(self, alive)) is not None:
            taken.append(len(seen))
        return rows

    def watched(self, waves):
        seen.append(({wave.own.length for wave in waves}, sum(wave.rows.alive for wave in waves)))
        return step(self, waves)

    monkeypatch.setattr(fast_decoder, "REFILL", {})
    monkeypatch.setattr(FastDecoder, "step", watched)
    monkeypatch.setattr(Queue, "take", watched_take)
    requests = requests_for(any_model, n=3, limit=40)
    for request, rows in zip(requests, draw(any_model, requests, max_rows), strict=True):
        assert [row.tokens for row in rows] == [by_generate(any_model, request.prompt_ids, 40)] * 3
    assert max(len(ages) for ages, _ in seen) > 1, "no row began while others went on"
    assert max(alive for _, alive in seen) == max_rows
    waited = seen[: taken[-1]]
    assert min(alive for _, alive in waited) > fast_decoder.DROP * max_rows, "places were left empty"


def test_where_memory_is_short_rows_do_not_begin_one_by_one(tiny_model, monkeypatch):
    end_early(tiny_model)
    requests = requests_for(tiny_model, n=8, limit=40)
    size, longest = tiny_model.size, max(len(request.prompt_ids) for request in requests) + 40
    taken, take = [], Queue.take
    monkeypatch.setattr(fast_decoder, "REFILL", {})
    monkeypatch.setattr(queue, "CACHE_BYTES", 10 * longest * 2 * size.layers * size.width * 4)
    monkeypatch.setattr(Queue, "take", lambda self, alive=0: taken.append((take(self, alive), alive)) or taken[-1][0])
    draw(tiny_model, requests)
    began = [(len(rows.rows), alive) for rows, alive in taken if rows is not None]
    assert max(alive for _, alive in began) > 0, "no row began while others went on"
    full = math.inf
    for count, alive in began:
        assert alive <= fast_decoder.DROP * full
        full = alive + count


def test_sampling_through_generate_equals_the_fast_decoder(any_model, monkeypatch):
    for temperature in (0.0, 0.7, 1.0):
        end_early(any_model, temperature)
        requests = requests_for(any_model, n=4, temperature=temperature)
        fast, slow = draw(any_model, requests), through_generate(monkeypatch, any_model, requests)
        for a, b in zip(chain(*fast), chain(*slow), strict=True):
            assert (a.tokens, a.text, a.finish) == (b.tokens, b.text, b.finish)
            assert a.logprobs == pytest.approx(b.logprobs, abs=1e-4)


def test_a_family_the_fast_decoder_does_not_know_is_sampled_all_the_same(tokenizer):
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=len(tokenizer), n_embd=32, n_layer=2, n_head=2, n_positions=64, initializer_range=0.2
    )
    model = CausalLM("gpt", GPT2LMHeadModel(config), tokenizer, Cpu())
    assert not llama.supports(model.module)
    drawn = draw(model, requests_for(model, n=2, temperature=0.0, limit=10))
    for request, rows in zip(requests_for(model), drawn, strict=True):
        assert [row.tokens for row in rows] == [by_generate(model, request.prompt_ids, 10)] * 2


def test_the_models_own_generation_settings_change_nothing(tiny_model, monkeypatch):
    requests = requests_for(tiny_model)
    expected = draw(tiny_model, requests)
    tiny_model.module.generation_config.repetition_penalty = 5.0
    before = tiny_model.module.generation_config
    drawn = through_generate(monkeypatch, tiny_model, requests)
    assert [[row.tokens for row in rows] for rows in drawn] == [[row.tokens for row in rows] for rows in expected]
    assert tiny_model.module.generation_config is before


def test_weights_are_read_anew_each_time(tiny_model):
    requests = requests_for(tiny_model)
    before = draw(tiny_model, requests)
    with torch.no_grad():
        for parameter in tiny_model.module.model.layers.parameters():
            parameter.mul_(-1.5)
    after = draw(tiny_model, requests)
    assert [[r.tokens for r in rows] for rows in before] != [[r.tokens for r in rows] for rows in after]
    assert after[0][0].tokens == by_generate(tiny_model, requests[0].prompt_ids, 24)


def test_a_long_prompt_that_ends_soon_beside_short_ones_that_go_on(tiny_model):
    """Its rows are fed on until they are dropped, beyond where they alone would have ended."""
    long = SampleRequest((1, *[9] * 60), (1, 2, 3, 4), 1.0, 4)
    short = SampleRequest((1, 9), tuple(range(12)), 1.0, 40)
    together = draw(tiny_model, [long, short])
    for drawn, request in zip(together, (long, short), strict=True):
        assert [row.tokens for row in drawn] == [row.tokens for row in draw(tiny_model, [request])[0]]


def test_branches_of_a_question_are_read_in_part_as_one(any_model, monkeypatch):
    """A search goes on from many branches of many questions: their prompts are read once, whatever comes between."""
    roots = [(1, 9, 8, 7), (1, 9, 8, 6)]
    tails = [(5, 4), (5, 4, 3), (6,)]
    branches = [SampleRequest((*root, *tail), (1, 2), 0.0, 12, (), len(tail)) for tail in tails for root in roots]
    read, real = [], llama.Llama.read
    monkeypatch.setattr(llama.Llama, "read", lambda self, packed, *a: read.append(packed) or real(self, packed, *a))
    drawn = draw(any_model, branches)
    # of the second root, its last token is new
    assert [len(packed.ids) for packed in read] == [len(roots[0]) + (2 + 1 + 1) + 1 + (2 + 1 + 1)]
    for request, rows in zip(branches, drawn, strict=True):
        assert [row.tokens for row in rows] == [by_generate(any_model, request.prompt_ids, 12)] * 2


def test_sampling_leaves_no_gradient_and_no_inference_tensor(tiny_model):
    draw(tiny_model, requests_for(tiny_model, temperature=1.0))
    loss = tiny_model.module(input_ids=torch.tensor([[1, 2, 3]])).logits.sum()
    loss.backward()
