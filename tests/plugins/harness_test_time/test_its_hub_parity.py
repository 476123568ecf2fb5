"""its_hub's own self-consistency and best-of-n, on the same samples, must choose what ours choose.

its_hub asks, counts and ranks by its own code. It gets nothing from us but the model behind its abstract language
model, the scorer behind its abstract reward model, and what is read as an answer. Where it chooses otherwise, the
test's name says how.
"""

import random
from types import SimpleNamespace

import pytest

from harness import Run
from harness.toolbox import draw, final_answer, sample
from harness_test_time.best_of_n import BestOfN
from harness_test_time.log_probability import LogProbability
from harness_test_time.self_consistency import SelfConsistency, stays_ahead

pytest.importorskip("its_hub")
import its_hub
from its_hub.core.orchestrator import LMOrchestrator

PROMPT = "1+1?"


class Speaker(its_hub.AbstractLanguageModel):
    """One sample a call, so that its i-th call draws with the seed of our i-th sample."""

    def __init__(self, model, run, temperature):
        self.model, self.run, self.temperature = model, run, temperature
        self.said = {}

    async def agenerate_single(self, messages, stop=None, **options):
        prompt = [message.to_dict() for message in messages]
        [completion] = sample(self.model, prompt, self.run, temperature=self.temperature)
        self.said.setdefault(completion.text, completion)
        return {"role": "assistant", "content": completion.text}

    async def agenerate(self, messages, stop=None, **options):
        return [await self.agenerate_single(conversation) for conversation in messages]


class Judge(its_hub.AbstractOutcomeRewardModel):
    """The run's scorer; it reads tokens, so it is given back the completion that a text came from."""

    def __init__(self, speaker):
        self.speaker = speaker

    def score(self, messages, **options):
        completions = [self.speaker.said[conversation[-1].content] for conversation in messages]
        return [judged.total for judged in self.speaker.run.score(PROMPT, completions)]

    async def ascore(self, messages, orchestrator=None, **options):
        return self.score(messages)


@pytest.fixture
def theirs(tiny_model):
    """`theirs(method, run, read)`: its_hub's result for the question that `method` of ours is asked."""

    def go(method, run, read=final_answer):
        speaker = Speaker(tiny_model, run, method.temperature)
        in_order = LMOrchestrator(max_concurrency=-1)  # with a limit, threads race for which call is the first
        if isinstance(method, BestOfN):
            algorithm = its_hub.BestOfN(Judge(speaker), orchestrator=in_order)
        else:
            algorithm = its_hub.SelfConsistency(read, orchestrator=in_order)
        return algorithm.infer(speaker, PROMPT, method.samples, return_response_only=False)

    return go


@pytest.fixture
def both(theirs, world):
    """`both(method, texts, judge)`: our answer and its_hub's to a question on which these texts are sampled."""

    def go(method, texts, judge=None, read=final_answer):
        ours, beside = (world(lambda said, number: texts[number], judge) for _ in range(2))
        return ours.answer(method).text, theirs(method, beside.run, read).the_one["content"]

    return go


@pytest.fixture
def tie_breaks(monkeypatch):
    """Draws its_hub's lots: always the first index. Filled with all that lots were drawn among."""
    drawn = []
    lots = SimpleNamespace(choice=lambda indices: drawn.append(indices) or indices[0])
    monkeypatch.setattr("its_hub.core.algorithms.self_consistency.random", lots)
    return drawn


def texts_of(result):
    return [response["content"] for response in result.responses]


def chains(generator, answers, most=16):
    """Up to `most` solutions: many have one answer in several forms, no two are the same text."""
    forms = ("T: {}. A: {}", "T: {}. A: {}.0", "{} apples\nA: {}", "{}, so the answer is {}")
    count = generator.randint(1, most)
    return [generator.choice(forms).format(place, generator.choice(answers)) for place in range(count)]


# -- self-consistency


def test_the_same_samples_and_the_same_vote(theirs, tiny_model, tie_breaks):
    method, majorities = SelfConsistency(temperature=0.5), 0
    for seed in range(12):
        ours, beside = (Run(seed, problem_id="p", max_new_tokens=6) for _ in range(2))
        answer = method.answer(tiny_model, PROMPT, ours)
        result = theirs(method, beside, lambda text: final_answer(text) or text)  # silence does not add up
        assert texts_of(result) == [c.text for c in answer.completions]
        assert ours.ledger.sampled_tokens == beside.ledger.sampled_tokens
        if max(result.response_counts.values()) > 1:
            majorities += 1
            assert result.the_one["content"] == answer.text
    assert majorities >= 6  # or nothing was compared


def test_readable_chains_elect_the_same_completion(both, tie_breaks):
    generator, ties = random.Random(0), 0
    for _ in range(100):
        texts = chains(generator, "123")
        ours, its = both(SelfConsistency(samples=len(texts)), texts)
        assert its == ours
        ties += len({final_answer(texts[k]) for k in tie_breaks[-1]}) > 1
    assert ties >= 10


def test_silence_is_an_answer_there_and_no_vote_here(both, tie_breaks):
    assert both(SelfConsistency(samples=3), ["none", "A: 5", "nothing"]) == ("A: 5", "none")
    generator = random.Random(1)
    for _ in range(50):
        texts = [*chains(generator, "12", 6), "none", "nothing", "no idea"]
        generator.shuffle(texts)
        ours, _ = both(SelfConsistency(samples=len(texts)), texts)
        readable = [text for text in texts if final_answer(text)]
        assert both(SelfConsistency(samples=len(readable)), readable)[1] == ours


def test_a_tie_is_drawn_by_lot_there_and_goes_to_the_first_here(both, monkeypatch):
    drawn = []
    lots = SimpleNamespace(choice=lambda indices: drawn.append(indices) or indices[-1])
    monkeypatch.setattr("its_hub.core.algorithms.self_consistency.random", lots)
    texts = ["A: 3", "A: 9", "x\nA: 1", "y\nA: 1", "A: 9.0"]
    assert both(SelfConsistency(samples=5), texts) == ("A: 9", "A: 9.0")
    assert drawn == [[1, 2, 3, 4]]


def test_its_default_counts_texts_where_ours_counts_answers(both, tie_breaks):
    texts = ["A: 7", "A: 1,000", "A: 7", "A: 1000", "x\nA: 1000.0"]
    assert both(SelfConsistency(samples=5), texts) == ("A: 1,000", "A: 1,000")
    assert both(SelfConsistency(samples=5), texts, read=None) == ("A: 1,000", "A: 7")


def test_the_chance_that_a_majority_stays_one_is_equal():
    chance = its_hub.BetaSelfConsistency.beta_stopping_probability
    for first in range(20):
        for second in range(first + 1):
            assert stays_ahead(first, second) == pytest.approx(chance(first, second), abs=1e-12)


# -- best-of-n


def test_the_same_samples_and_the_same_best(theirs, tiny_model):
    def scored(kind, payload):
        if kind == "score":
            run, prompt, completions = payload
            return LogProbability().score(tiny_model, prompt, completions, run)
        return draw(payload[1], payload[2])

    method = BestOfN(samples=8)
    for seed in range(12):
        ours, beside = (Run(seed, problem_id="p", max_new_tokens=12, submit=scored) for _ in range(2))
        answer = method.answer(tiny_model, PROMPT, ours)
        result = theirs(method, beside)
        assert texts_of(result) == [c.text for c in answer.completions]
        assert result.scores == [ours.judged[c][0].total for c in answer.completions]
        assert result.the_one["content"] == answer.text


def test_the_best_is_the_same_completion_ties_included(both):
    generator = random.Random(2)
    for _ in range(100):
        texts = chains(generator, "1234")
        scores = {text: generator.choice([-1.5, 0.0, 0.25, 1.0]) for text in texts}
        ours, its = both(BestOfN(samples=len(texts)), texts, scores.__getitem__)
        assert its == ours


def test_equal_texts_are_scored_once_there_and_each_here(theirs, world):
    def judged(texts, ask):
        made = world(lambda said, number: texts[number], lambda text: 0.5)
        ask(BestOfN(samples=3), made)
        return made.judged

    twice = ["A: 1", "A: 2", "A: 1"]
    assert judged(twice, lambda method, made: made.answer(method)) == [twice]
    assert judged(twice, lambda method, made: theirs(method, made.run)) == [["A: 1", "A: 2"]]
    assert judged(["A: 1"] * 3, lambda method, made: theirs(method, made.run)) == []  # nothing to choose from
