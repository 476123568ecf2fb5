"""Decode-beam: greedy with one beam, exhaustive with many; what ended is kept apart, and every token is paid for."""

import itertools
import math
from types import SimpleNamespace

import pytest
import torch

from harness import BudgetSpentError, Run
from harness.builtin.causal_lm import CausalLM
from harness.meter import forward_flops
from harness.toolbox import completion_logprob, sample
from harness_test_time.decode_beam import DecodeBeam

END = "<eos>"


class Told(torch.nn.Module):
    """Says what it was told: text so far to the chances of what follows. `reads` has the texts of each call."""

    def __init__(self, like, chances):
        super().__init__()
        self.config, self.weight = like.module.config, torch.nn.Parameter(torch.zeros(1))
        self.decode, self.chances, self.reads = like.decode, chances, []
        self.ids = like.tokenizer.convert_tokens_to_ids

    def forward(self, input_ids, past_key_values, use_cache):
        cache = past_key_values or Rows(input_ids.shape[1])
        cache.add(input_ids)
        self.reads.append([self.decode(row[cache.prompt :]) for row in cache.rows])
        logits = torch.full((*input_ids.shape, self.config.vocab_size), -math.inf)
        for row, said in zip(logits, self.reads[-1], strict=True):
            for sign, chance in self.chances(said).items():
                row[-1, self.ids(sign)] = math.log(chance)
        return SimpleNamespace(logits=logits, past_key_values=cache)


class Rows:
    """A cache that holds the tokens themselves."""

    def __init__(self, prompt):
        self.prompt, self.rows = prompt, [[]]

    def add(self, ids):
        self.rows = [row + new for row, new in zip(self.rows, ids.tolist(), strict=True)]

    def reorder_cache(self, parents):
        self.rows = [self.rows[parent] for parent in parents.tolist()]


@pytest.fixture
def told(tiny_model):
    """`told(method, chances)`: the answer where these are the chances, the texts read at each step, and the run."""

    def go(method, chances, **options):
        look = chances if callable(chances) else lambda said: chances.get(said, {END: 1.0})
        module = Told(tiny_model, look)
        run = Run(0, counts="sampled_tokens", **{"max_new_tokens": 20, **options})
        answer = method.answer(CausalLM("told", module, tiny_model.tokenizer, tiny_model.device), "1+1?", run)
        return answer, module.reads, run

    return go


GARDEN = {"": {"a": 0.6, "b": 0.4}, "a": {"c": 0.35, "d": 0.35, "e": 0.3}, "b": {"f": 1.0}}


def test_it_finds_what_greedy_decoding_passes_by(told):
    answer, _, _ = told(DecodeBeam(beams=1), GARDEN)
    assert answer.text == "ac"
    answer, reads, _ = told(DecodeBeam(beams=2), GARDEN)
    assert answer.text == "bf"
    assert reads == [[""], ["a", "b"], ["bf", "ac"]]
    [best, *_] = answer.completions
    assert best.finish == "eos"
    assert best.logprobs == pytest.approx((math.log(0.4), 0.0, 0.0))


def test_beams_are_compared_by_all_that_they_said(told):
    chances = {"": {"a": 0.9, "b": 0.1}, "a": {"c": 0.6, "d": 0.4}, "b": {"e": 1.0}}
    _, reads, _ = told(DecodeBeam(beams=2), chances)
    assert reads[2] == ["ac", "ad"]


def test_one_beam_is_greedy_decoding(any_model, make_model):
    finishes = set()
    for model in (any_model, make_model(seed=3, sharpness=0.3), make_model(seed=5, sharpness=0.3)):
        for prompt in ("1+1?", "a", "How many?", "9*9", "T: 3", "x=1, y=2"):
            runs = [Run(0, max_new_tokens=40) for _ in range(2)]
            [beam] = DecodeBeam(beams=1).answer(model, prompt, runs[0]).completions
            [greedy] = sample(model, prompt, runs[1], temperature=0)
            assert (beam.tokens, beam.text, beam.finish) == (greedy.tokens, greedy.text, greedy.finish)
            assert beam.logprobs == pytest.approx(greedy.logprobs, abs=1e-4)
            assert runs[0].ledger == runs[1].ledger
            finishes.add(beam.finish)
    assert finishes == {"eos", "length"}


@pytest.mark.parametrize("alpha", [0.0, 0.6, 3.0])
def test_with_room_for_all_it_finds_the_best_of_all(make_model, alpha):
    model = make_model(seed=2, sharpness=0.3, vocab_size=9)  # <pad> to "2"
    ids, others = model.encode_prompt([{"role": "user", "content": "1"}]), [w for w in range(9) if w != model.eos]
    ids = [w if w < 9 else 3 for w in ids]
    texts = [(*start, model.eos) for n in range(3) for start in itertools.product(others, repeat=n)]
    with torch.no_grad():
        total = completion_logprob(model, [(ids, text) for text in texts])
    worth = [t / ((5 + len(text)) / 6) ** alpha for t, text in zip(total.tolist(), texts, strict=True)]
    model.encode_prompt = lambda _: ids
    best, *_ = DecodeBeam(beams=9**3, length_penalty=alpha).answer(model, "1", Run(0, max_new_tokens=3)).completions
    assert best.tokens == max(zip(worth, texts, strict=True))[1]


def test_each_beam_goes_on_from_its_own_past(any_model):
    for prompt in ("1+1?", "a", "How many?", "9*9"):
        answer = DecodeBeam(beams=5).answer(any_model, prompt, Run(0, max_new_tokens=8))
        ids, said = any_model.encode_prompt(prompt), [c.tokens for c in answer.completions]
        with torch.no_grad():
            total = completion_logprob(any_model, [(ids, tokens) for tokens in said])
        assert [sum(c.logprobs) for c in answer.completions] == pytest.approx(total.tolist(), abs=1e-4)
        assert len(set(said)) == len(said)


LONG = {"": {END: 0.6, "b": 0.4}} | {"b" * n: {"b": 1.0} for n in range(1, 8)}


def test_length_is_weighed_as_in_eq_14(told):
    # lp of 1 token is 1, of 9 it is (14 / 6)^alpha: ln 0.6 = -0.51 meets ln 0.4 / 2.33 = -0.39, or without it -0.92.
    assert DecodeBeam(length_penalty=1).penalty(9) == pytest.approx(14 / 6)
    answer, _, run = told(DecodeBeam(beams=2, length_penalty=0.0), LONG)
    assert [c.text for c in answer.completions] == [""]
    assert run.ledger.sampled_tokens == 2  # the beam that was given up is paid for
    answer, _, _ = told(DecodeBeam(beams=2, length_penalty=1.0), LONG)
    assert [c.text for c in answer.completions] == ["b" * 8, ""]


def test_it_stops_when_no_beam_that_goes_on_can_win(told):
    def endless(first):
        return lambda said: {END: first, "b": 1 - first} if not said else {"b": 1.0}

    assert len(told(DecodeBeam(length_penalty=0.0), endless(0.6))[1]) == 1
    # With alpha 1 the bound is over lp of the limit, 25 / 6: ln 0.1 / 4.17 = -0.55, ln 0.4 / 4.17 = -0.22.
    assert len(told(DecodeBeam(beams=2, length_penalty=1.0), endless(0.9))[1]) == 1
    assert len(told(DecodeBeam(beams=2, length_penalty=1.0), endless(0.6))[1]) == 20


def test_what_ended_is_kept_apart_and_the_beam_gets_narrower(told):
    chances = {"": {END: 0.4, "a": 0.35, "b": 0.25}, "a": {"c": 0.9, "d": 0.1}, "b": {"e": 0.5, "f": 0.5}}
    answer, reads, run = told(DecodeBeam(beams=3, length_penalty=2.0), chances)
    assert reads == [[""], ["a", "b"], ["ac", "be"]]
    assert [c.text for c in answer.completions] == ["ac", "", "be"]  # by what they are worth
    assert all(c.finish == "eos" for c in answer.completions)
    assert run.ledger.sampled_tokens == 3 + 2 + 2


def test_a_finished_text_comes_before_any_unfinished_one(told):
    chances = {"": {"a": 0.99, END: 0.01}}
    answer, _, _ = told(
        DecodeBeam(beams=2, length_penalty=0.0), lambda said: {"a": 1.0} if said else chances[""], max_new_tokens=5
    )
    assert [(c.text, c.finish) for c in answer.completions] == [("", "eos")]
    answer, _, _ = told(
        DecodeBeam(beams=2), lambda said: {"a": 0.9, "b": 0.1} if said else {"a": 0.6, "b": 0.4}, max_new_tokens=3
    )
    assert [(c.text, c.finish) for c in answer.completions] == [("aaa", "length"), ("baa", "length")]


def test_every_token_is_booked_as_sampled_and_none_is_read_twice(any_model):
    run = Run(0, max_new_tokens=6)
    run.watch(any_model)
    with run.pays():
        answer = DecodeBeam(beams=3, length_penalty=0.0).answer(any_model, "1+1?", run)
    run.close()
    prompt, ledger, size = len(any_model.encode_prompt("1+1?")), run.ledger, any_model.size
    assert all(c.finish == "length" for c in answer.completions)
    assert (ledger.sampled_tokens, ledger.scored_tokens, ledger.trained_tokens) == (3 * 6, 0, 0)
    assert (ledger.prompt_tokens, ledger.reused_tokens, ledger.model_calls) == (3 * prompt, 2 * prompt, 3)
    read = [prompt + n for n in range(1, 6)] * 3  # what each token but the last of a beam looks back on
    assert ledger.flops == pytest.approx(forward_flops(size, prompt, prompt**2) + forward_flops(size, 15, sum(read)))


def test_the_budget_holds_and_leaves_a_beam_room_to_end(told):
    for budget in range(1, 30):
        answer, _, run = told(DecodeBeam(beams=4), LONG, budget=budget, max_new_tokens=9)
        assert run.ledger.sampled_tokens <= budget
        assert answer.completions[0].finish == ("eos" if budget >= 9 else "length") or answer.text == ""
    answer, reads, run = told(DecodeBeam(beams=2), GARDEN, budget=5, max_new_tokens=20)
    assert (answer.text, run.left) == ("ac", 2)  # two beams for 20 tokens are not to be had: one, as far as it goes
    answer, _, run = told(DecodeBeam(beams=2), GARDEN, budget=2, max_new_tokens=20)
    assert ([(c.text, c.finish) for c in answer.completions], run.left) == ([("ac", "length")], 0)
    answer, reads, _ = told(DecodeBeam(beams=2), GARDEN, budget=6, max_new_tokens=3)
    assert (answer.text, reads[1]) == ("bf", ["a", "b"])
    with pytest.raises(BudgetSpentError, match="budget of 0"):
        told(DecodeBeam(), GARDEN, budget=0)


def test_a_prompt_that_fills_the_context_gives_an_empty_answer(make_model):
    model, run = make_model(max_position_embeddings=8), Run(0)
    answer = DecodeBeam().answer(model, "1+1=2, 2+2=4?", run)
    assert [(c.text, c.tokens, c.finish) for c in answer.completions] == [("", (), "length")]
    model = make_model(max_position_embeddings=len(model.encode_prompt("1+1?")) + 2)
    assert {len(c.tokens) for c in DecodeBeam().answer(model, "1+1?", Run(0)).completions} <= {1, 2}


def test_it_draws_nothing_at_random_and_leaves_the_weights(tiny_model):
    before = tiny_model.fingerprint()
    answers = [DecodeBeam().answer(tiny_model, "1+1?", Run(seed, max_new_tokens=10)) for seed in range(2)]
    assert answers[0] == answers[1]
    assert answers[0].text == answers[0].completions[0].text
    assert tiny_model.fingerprint() == before


@pytest.mark.parametrize(("field", "value"), [("beams", 0), ("length_penalty", -0.1), ("length_penalty", float("nan"))])
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"decode-beam: {field} must be .*, not "):
        DecodeBeam(**{field: value})
