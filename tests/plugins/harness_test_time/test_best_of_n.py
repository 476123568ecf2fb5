"""Best-of-n: the highest score wins, or the answer with the highest sum of them; one sample is plain sampling."""

import random

import pytest

from harness import BudgetSpentError, Run, Scores
from harness.toolbox import draw
from harness_test_time.best_of_n import BestOfN
from harness_test_time.log_probability import LogProbability
from harness_test_time.sampled import Sampled
from harness_test_time.self_consistency import SelfConsistency


def weighted(samples):
    return BestOfN(samples=samples, choose="weighted")


def test_the_highest_score_wins(scripted):
    answer, asked = scripted(BestOfN(samples=3), ["a", "b", "c"], scores=[0.1, 0.9, 0.5])
    assert answer.text == "b"
    kind, (_, prompt, completions) = asked[1]
    assert (kind, prompt, [c.text for c in completions]) == ("score", "1+1?", ["a", "b", "c"])


def test_a_tie_goes_to_the_first(scripted):
    assert scripted(BestOfN(samples=3), ["a", "b", "c"], scores=[1.0, 1.0, 1.0])[0].text == "a"


@pytest.mark.parametrize("choose", ["best", "weighted"])
def test_one_sample_is_plain_sampling(tiny_model, choose):
    def submit(kind, payload):
        return [Scores(0.0)] if kind == "score" else draw(payload[1], payload[2])

    runs = [Run(4, problem_id="p", max_new_tokens=20, submit=submit) for _ in range(2)]
    best = BestOfN(samples=1, choose=choose).answer(tiny_model, "1+1?", runs[0])
    assert best.text == Sampled().answer(tiny_model, "1+1?", runs[1]).text


def test_scores_of_the_same_answer_add_up(scripted):
    texts, scores = ["A: 1", "A: 2", "x\nA: 2.0", "none"], [0.8, 0.5, 0.4, 0.99]
    assert scripted(BestOfN(samples=4), texts, scores)[0].text == "none"
    assert scripted(weighted(4), texts, scores)[0].text == "A: 2"
    assert scripted(weighted(4), texts, [0.95, 0.5, 0.4, 0.99])[0].text == "A: 1"


@pytest.mark.parametrize("score", [0.0, 0.1, 1.0, 7.0])
def test_equal_weights_are_a_majority_vote(scripted, score):
    generator = random.Random(0)
    for _ in range(30):
        texts = [generator.choice(["A: 1", "A: 2", "A: 3", "none"]) for _ in range(7)]
        answer, _ = scripted(weighted(7), texts, scores=[score] * 7)
        assert answer == scripted(SelfConsistency(samples=7), texts)[0]


def test_a_score_below_zero_is_no_weight_but_can_be_the_best(scripted):
    texts, scores = ["A: 1", "A: 2"], [-3.0, -0.25]
    assert scripted(BestOfN(samples=2), texts, scores)[0].text == "A: 2"
    with pytest.raises(ValueError, match=r"a score of -3 cannot weigh a vote, only 0 or above"):
        scripted(weighted(2), texts, scores)


@pytest.mark.parametrize(("choose", "text"), [("best", "b"), ("weighted", "a")])
def test_no_answer_anywhere(scripted, choose, text):
    assert scripted(BestOfN(samples=3, choose=choose), ["a", "b", "c"], [0.1, 0.9, 0.5])[0].text == text


@pytest.mark.parametrize("choose", ["best", "weighted"])
def test_a_budget_is_kept(world, choose):
    made = world(lambda said, number: f"A: {number}", lambda text: 0.5, budget=14, max_new_tokens=6)
    answer = made.answer(BestOfN(choose=choose))
    assert [c.text for c in answer.completions] == ["A: 0", "A: 1", "A: 2"][: len(answer.completions)]
    assert len(answer.completions) in {2, 3}
    assert made.run.ledger.sampled_tokens <= 14
    with pytest.raises(BudgetSpentError):
        world(lambda said, number: "A: 1", lambda text: 0.5, budget=0).answer(BestOfN(choose=choose))


def test_what_the_scorer_reads_is_booked_on_the_question(tiny_model):
    run = Run(0, problem_id="p", counts="sampled_tokens", max_new_tokens=12)
    run.watch(tiny_model)

    def submit(kind, payload):
        if kind == "score":
            with run.pays():
                return LogProbability().score(tiny_model, payload[1], payload[2], run)
        return draw(payload[1], payload[2])

    run.submit = submit
    answer = BestOfN(samples=5).answer(tiny_model, "1+1?", run)
    prompt = len(tiny_model.encode_prompt("1+1?"))
    assert run.ledger.scored_tokens == sum(prompt + len(c.tokens) for c in answer.completions)
    best = max(answer.completions, key=lambda c: sum(c.logprobs) / len(c.logprobs))
    assert answer.text == best.text


@pytest.mark.parametrize(
    ("field", "value"), [("samples", 0), ("temperature", -0.1), ("temperature", float("nan")), ("choose", "worst")]
)
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"^best-of-n: {field} must be .*, not "):
        BestOfN(**{field: value})


@pytest.mark.parametrize("choose", ["best", "weighted"])
def test_what_the_budget_cut_off_answers_only_where_it_is_alone(world, choose):
    texts = ["A: 1", "A: 22"]
    made = world(lambda _, number: texts[number], {"A: 1": 0.2, "A: 2": 0.9}.__getitem__, budget=9, max_new_tokens=6)
    answer = made.answer(BestOfN(samples=2, choose=choose))
    assert (answer.text, [c.text for c in answer.completions]) == ("A: 1", ["A: 1", "A: 2"])
    made = world(lambda *_: "A: 22", lambda _: 0.9, budget=4, max_new_tokens=6)
    assert made.answer(BestOfN(choose=choose)).text == "A: 2"
