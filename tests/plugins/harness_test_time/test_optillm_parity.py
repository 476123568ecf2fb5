"""optillm's own self-consistency, majority vote and best-of-n, on the same samples, must choose what ours choose.

optillm asks, reads, counts and ranks by its own code. It gets nothing from us but the model and its scorer, behind what
it needs of an OpenAI client. Where it chooses otherwise, the test's name says how.
"""

import importlib
import importlib.util
import random
import sys
from types import ModuleType, SimpleNamespace

import pytest

from harness import Run
from harness.toolbox import draw, final_answer, sample
from harness_test_time.best_of_n import BestOfN
from harness_test_time.log_probability import LogProbability
from harness_test_time.self_consistency import SelfConsistency

PROMPT = "1+1?"
MODULES = {"bon": "bon", "clusters": "self_consistency", "majority": "plugins.majority_voting_plugin"}


@pytest.fixture(scope="module")
def optillm():
    """Three of its approaches; its `__init__`, a server that wants 36 packages, is left out: they need none of them."""
    spec = importlib.util.find_spec("optillm")
    if spec is None:
        pytest.skip("optillm is not installed: `make peers` does it")
    package = ModuleType("optillm")
    package.__path__ = list(spec.submodule_search_locations)
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "optillm", package)
        yield SimpleNamespace(**{name: importlib.import_module(f"optillm.{path}") for name, path in MODULES.items()})


class Client:
    """`chat.completions.create` over our model, and over our scorer where it is asked to rate.

    `read` is what becomes of a sampled text before it is handed out.
    """

    def __init__(self, model, run, read=str):
        self.model, self.run, self.read = model, run, read
        self.drawn, self.ratings = [], []
        self.chat = SimpleNamespace(completions=self)

    def create(self, *, model, messages, max_tokens, temperature, n=1):
        if messages[-1]["content"] == "Rate the above response:":
            return self.reply([(self.rating(messages[-2]["content"]), "stop")], 1)
        prompt = [message for message in messages if message["content"]]  # an empty system prompt is none
        drawn = sample(self.model, prompt, self.run, n=n, temperature=temperature)
        self.drawn += drawn
        finish = {"eos": "stop", "length": "length"}
        return self.reply([(self.read(c.text), finish[c.finish]) for c in drawn], sum(len(c.tokens) for c in drawn))

    def rating(self, text):
        completion = next(c for c in self.drawn if c.text == text)
        [judged] = self.run.score(PROMPT, [completion])
        self.ratings.append(judged.total)
        return repr(judged.total)

    @staticmethod
    def reply(said, tokens):
        choices = [SimpleNamespace(message=SimpleNamespace(content=t), finish_reason=f) for t, f in said]
        return SimpleNamespace(choices=choices, usage=SimpleNamespace(completion_tokens=tokens))


@pytest.fixture
def theirs(optillm, tiny_model):
    """Its approaches by name, each `(client, samples)`: the chosen text."""

    def clusters(client, samples, threshold=1.0):
        approach = optillm.clusters.AdvancedSelfConsistency(client, "", samples, threshold)
        found = approach.evaluate("", PROMPT)["aggregated_result"]["clusters"]
        return found[0]["answer"] if found else None

    def majority(client, samples):
        return optillm.majority.run("", PROMPT, client, "", {"k": samples, "temperature": 0.7})[0]

    def bon(client, samples):
        return optillm.bon.best_of_n_sampling("", PROMPT, client, "", samples)[0]

    return SimpleNamespace(clusters=clusters, majority=majority, bon=bon)


@pytest.fixture
def beside(world, tiny_model):
    """`beside(texts, judge)`: our world on whose question these texts are sampled, and a client of another such."""

    def go(texts, judge=None, read=str):
        ours, its = (world(lambda said, number: texts[number], judge) for _ in range(2))
        return ours, Client(tiny_model, its.run, read)

    return go


def chains(generator, form, answers, most=16):
    """Up to `most` solutions, no two of them the same text."""
    return [form.format(place, generator.choice(answers)) for place in range(generator.randint(1, most))]


# -- self-consistency: clusters of texts


def test_the_same_samples_and_the_same_vote(theirs, tiny_model):
    """It clusters whole texts: to be a vote it is handed the answers alone, and only equal ones are similar."""
    method, majorities = SelfConsistency(temperature=1.0), 0
    for seed in range(12):
        ours, its = (Run(seed, problem_id="p", max_new_tokens=12) for _ in range(2))
        client = Client(tiny_model, its, final_answer)
        # A random model ends little by itself, and what a limit cut off has no vote there (see below).
        client.reply = lambda said, tokens: Client.reply([(text, "stop") for text, _ in said], tokens)
        answer, elected = method.answer(tiny_model, PROMPT, ours), theirs.clusters(client, method.samples)
        assert [c.tokens for c in client.drawn] == [c.tokens for c in answer.completions]
        assert elected == final_answer(answer.text)
        assert its.ledger.sampled_tokens == ours.ledger.sampled_tokens
        majorities += sum(final_answer(c.text) == elected for c in client.drawn) > 1
    assert majorities >= 6  # or nothing was compared


def test_handed_the_answers_it_elects_ours(theirs, beside):
    generator = random.Random(0)
    for _ in range(100):
        texts = chains(generator, "T: {}. A: {}", ("1", "1.0", "2", "3", ""))
        ours, client = beside(texts, read=final_answer)
        answer = ours.answer(SelfConsistency(samples=len(texts)))
        assert theirs.clusters(client, len(texts)) == final_answer(answer.text)


def test_its_default_takes_similar_texts_for_one_answer_and_ours_equal_answers(theirs, beside):
    texts = ["so it is\nA: 17", "A: 7", "so it is\nA: 18", "A: 7.0"]
    ours, client = beside(texts)
    assert ours.answer(SelfConsistency(samples=4)).text == "A: 7"
    assert theirs.clusters(client, 4, threshold=0.8) == texts[0]


def test_what_a_limit_cut_off_has_no_vote_there_and_one_here(theirs, beside):
    texts = ["A: 5" + " so" * 30, "A: 5", "A: 2", "A: 5" + " or" * 30, "A: 2"]  # 60 tokens are allowed
    ours, client = beside(texts, read=final_answer)
    answer = ours.answer(SelfConsistency(samples=5))
    assert [c.finish for c in answer.completions] == ["length", "eos", "eos", "length", "eos"]
    assert (final_answer(answer.text), theirs.clusters(client, 5)) == ("5", "2")


# -- self-consistency: the plugin that votes


@pytest.mark.parametrize("form", ["T: {}.\nAnswer: {}", "T: {}.\nFinal answer: {}", "{} so the answer is {}"])
def test_answers_that_both_read_elect_the_same_completion(theirs, beside, form):
    generator = random.Random(1)
    for _ in range(50):
        texts = chains(generator, form, "123")
        ours, client = beside(texts)
        assert theirs.majority(client, len(texts)) == ours.answer(SelfConsistency(samples=len(texts))).text


def test_silence_is_an_answer_there_and_no_vote_here(theirs, beside):
    ours, client = beside(["Answer: 5", "no idea", "No idea."])
    assert (ours.answer(SelfConsistency(samples=3)).text, theirs.majority(client, 3)) == ("Answer: 5", "no idea")


def test_where_nobody_says_anything_both_return_the_first(theirs, beside):
    ours, client = beside(["?", ".", ""])
    assert ours.answer(SelfConsistency(samples=3)).text == theirs.majority(client, 3) == "?"


def test_the_first_marker_counts_there_and_the_last_here(theirs, beside):
    ours, client = beside(["Answer: 3", "Answer: 4", "Answer: 3\nno\nAnswer: 4"])
    assert (ours.answer(SelfConsistency(samples=3)).text, theirs.majority(client, 3)) == ("Answer: 4", "Answer: 3")


def test_one_number_in_two_forms_is_two_answers_there_and_one_here(theirs, beside):
    ours, client = beside(["Answer: 7", "Answer: 1,000", "x\nAnswer: 1000", "Answer: 7.0", "Answer: 1000.0"])
    assert ours.answer(SelfConsistency(samples=5)).text == "Answer: 1,000"
    assert theirs.majority(client, 5) == "Answer: 7"


# -- best-of-n


def test_the_same_samples_and_the_same_best(theirs, tiny_model):
    def scored(kind, payload):
        if kind == "score":
            run, prompt, completions = payload
            return LogProbability().score(tiny_model, prompt, completions, run)
        return draw(payload[1], payload[2])

    for seed in range(12):
        ours, its = (Run(seed, problem_id="p", max_new_tokens=12, submit=scored) for _ in range(2))
        answer, client = BestOfN(samples=8).answer(tiny_model, PROMPT, ours), Client(tiny_model, its)
        best = theirs.bon(client, 8)
        assert [c.tokens for c in client.drawn] == [c.tokens for c in answer.completions]
        assert client.ratings == pytest.approx([ours.judged[c][0].total for c in answer.completions])
        assert best == answer.text


def test_the_best_is_the_same_completion_ties_included(theirs, beside):
    generator = random.Random(2)
    for _ in range(100):
        texts = chains(generator, "T: {}. A: {}", "1234")
        scores = {text: generator.choice([-1.5, 0.0, 0.25, 1.0]) for text in texts}
        ours, client = beside(texts, scores.__getitem__)
        assert theirs.bon(client, len(texts)) == ours.answer(BestOfN(samples=len(texts))).text


def test_a_rating_that_is_no_number_is_0_there_and_an_error_here(theirs, beside):
    ours, client = beside(["A: 1", "A: 2"], {"A: 1": float("nan"), "A: 2": 0.5}.__getitem__)
    with pytest.raises(ValueError, match="the scorer said nan"):
        ours.answer(BestOfN(samples=2))
    client.rating = {"A: 1": "nine", "A: 2": "0.5"}.__getitem__
    assert theirs.bon(client, 2) == "A: 2"
