"""Confidence: the least sure stretch counts, surer is higher, and what falls below the threshold is stopped."""

import dataclasses
import math

import pytest

from harness import BudgetSpentError, Completion, Run
from harness_test_time.confidence import Confidence, confidence
from harness_test_time.self_consistency import SelfConsistency

SURE, UNSURE = -0.1, -3.0


@pytest.fixture
def doubting(world, tiny_model):
    """`world`, in which the model is unsure of every `?` that it says, and sure of all else."""
    [doubt] = tiny_model.encode_completion("?")[:-1]

    def go(speak, **options):
        made = world(speak, **options)
        draw = made.run.submit

        def submit(kind, payload):
            return [
                [dataclasses.replace(c, logprobs=tuple(UNSURE if t == doubt else SURE for t in c.tokens)) for c in row]
                for row in draw(kind, payload)
            ]

        made.run.submit = submit
        return made

    return go


def chain(texts):
    """`speak` for world: chain i says texts[i], whole or step by step; all must differ in their first step."""

    def speak(said, number):
        if not said:
            return texts[number]
        [text] = [text for text in dict.fromkeys(texts) if text.startswith(said)]
        return text[len(said) :]

    return speak


# -- confidence


def test_the_least_sure_window_counts_by_hand():
    logprobs = [-0.1, -0.1, -2.0, -1.0, -0.1, -0.2]
    assert confidence(logprobs, 2) == pytest.approx(math.exp(-1.5))
    assert confidence(logprobs, 3) == pytest.approx(math.exp(-3.1 / 3))
    assert confidence(logprobs, 1) == pytest.approx(math.exp(-2.0))


def test_a_window_longer_than_the_trace_is_all_of_it():
    assert confidence([-0.5, -1.5], 8) == confidence([-0.5, -1.5], 2) == pytest.approx(math.exp(-1.0))
    assert confidence([], 8) == 0.0


def test_higher_is_more_confident_and_uniform_is_one_in_v():
    uniform = [-math.log(72)] * 20
    assert confidence(uniform, 8) == pytest.approx(1 / 72)
    assert confidence(uniform, 8) < confidence([-0.7] * 20, 8) < confidence([-0.01] * 20, 8) < 1
    assert confidence([*[-0.01] * 20, *[-5.0] * 8], 8) == pytest.approx(math.exp(-5.0))  # the mean would hide it


def test_the_threshold_is_a_percentile_of_the_warm_up():
    traces = [Completion("", (1,), (math.log(c),), "eos") for c in (0.4, 0.1, 0.5, 0.2, 0.3)]
    for keep, least in ((1.0, 0.1), (0.75, 0.2), (0.5, 0.3), (1e-9, 0.5)):
        assert Confidence(keep=keep).threshold(traces) == pytest.approx(least)


# -- the vote of whole traces


def test_sure_traces_outweigh_a_majority(doubting):
    texts = ["A: 1", "A: 1??", "A: 1??", "A: 2", "A: 2"]
    method = Confidence(samples=5, warm_up=5, window=2, keep=1.0)
    answer = doubting(chain(texts)).answer(method)
    assert answer.text == "A: 2"
    assert len(answer.completions) == 5
    assert doubting(chain(texts)).answer(SelfConsistency(samples=5)).text == "A: 1"


def test_the_least_sure_are_filtered(doubting):
    texts = ["A: 2??", "A: 2?", "A: 1", "A: 2??", "A: 2?", "A: 3"]
    answer = doubting(chain(texts)).answer(Confidence(samples=6, warm_up=6, window=2, keep=0.3))
    assert [c.text for c in answer.completions] == ["A: 1", "A: 3"]
    assert answer.text == "A: 1"


@pytest.mark.parametrize("keep", [0.1, 0.9, 1.0])
def test_equal_confidence_is_a_majority_vote(world, keep):
    texts = ["A: 1", "none", "A: 2", "A: 3", "A: 2", "none"]
    answer = world(chain(texts)).answer(Confidence(samples=6, warm_up=6, keep=keep))
    assert answer.text == "A: 2"
    assert [c.text for c in answer.completions] == texts


# -- stopping early

STEPS = [
    f"T: {k}{'?' * (k % 4 == 3)}+1={k + 1}. T: {'?' * (k % 5 == 4)}so it is, and so it goes.\nA: {k % 3}"
    for k in range(16)
]


def test_unsure_traces_stop_at_the_end_of_their_step(doubting):
    texts = ["A: 1", "A: 1", "T: 1? T: ???. T: 2.\nA: 2", "T: fine it is. T: ok.\nA: 3", "T: ??? it is. T: on.\nA: 4"]
    made = doubting(chain(texts))
    answer = made.answer(Confidence(samples=5, warm_up=2, window=3, consensus=1.0))
    assert [c.text for c in answer.completions] == ["A: 1", "A: 1", texts[3]]
    # The last stops within its first step, the third within its second, where doubts fill a window at last.
    spent = 2 * len("A: 1.") + len("T: 1? T: ???.") + len(texts[3]) + 1 + len("T: ??? it is.")
    assert made.run.ledger.sampled_tokens == spent
    begun, *rounds = made.drawn[1:]
    assert [len(request.seeds) for request in begun] == [3]
    assert [len(requests) for requests in rounds] == [1, 1]


def test_a_trace_is_not_judged_before_it_fills_a_window(doubting):
    texts = ["A: 1, or so it is", "?. T: all is clear from here on.\nA: 2"]
    answer = doubting(chain(texts)).answer(Confidence(samples=2, warm_up=1, window=40, consensus=1.0))
    assert [c.text for c in answer.completions] == texts[:1]  # its mean is below, in the end
    made = doubting(chain(["A: 1?, or so", *texts[1:]]))
    answer = made.answer(Confidence(samples=2, warm_up=1, window=40, consensus=1.0))
    assert len(answer.completions) == 2  # and here it is not, though it begins with a doubt


@pytest.mark.parametrize("window", [2, 5, 8, 30])
@pytest.mark.parametrize("keep", [0.3, 0.6, 1.0])
def test_stopping_saves_tokens_and_nothing_else(doubting, window, keep):
    method = Confidence(warm_up=5, window=window, keep=keep, consensus=1.0)
    made = doubting(chain(STEPS))
    answer = made.answer(method)
    whole = doubting(chain(STEPS)).answer(SelfConsistency())
    least = method.threshold(whole.completions[:5])
    passed = [c for c in whole.completions if confidence(c.logprobs, window) >= least]
    assert {c.text for c in answer.completions} == {c.text for c in passed}
    stopped = len(passed) < 16
    assert (made.run.ledger.sampled_tokens < sum(len(c.tokens) for c in whole.completions)) is stopped


def test_no_more_is_drawn_once_the_weighted_vote_agrees(doubting):
    """By weight: a trace in doubt weighs a twentieth of a sure one."""
    one, other, doubt = "T: so.\nA: 1", "T: to.\nA: 2", "T: ???.\nA: 2"
    method = Confidence(samples=6, warm_up=2, window=2, keep=1.0, consensus=0.65)
    assert len(doubting(chain([one, one, other, other, other, other])).answer(method).completions) == 2
    split = doubting(chain([one, other, one, one, other, other]))
    assert len(split.answer(method).completions) == 4  # 1 to 1 is no agreement, 3 to 1 is
    assert [len(request.seeds) for requests in split.drawn for request in requests if not request.begun] == [2, 2]
    doubtful = doubting(chain([one, doubt, other, other, other, other]))
    assert len(doubtful.answer(method).completions) == 2  # 1 to 1, but for the doubt
    silent = doubting(chain(["no.", "no.", "no.", "no.", one, one]))
    assert silent.answer(method).text == one  # where nothing is said, nothing is agreed


def test_the_threshold_is_of_this_question_alone(doubting):
    method = Confidence(samples=4, warm_up=2, window=4, consensus=1.0)
    sure, unsure = (
        ["A: 1", "A: 1", "T: ??.\nA: 2", "T: ??.\nA: 2"],
        ["A: ??1", "A: ??1", "T: ??.\nA: 2", "T: ??.\nA: 2"],
    )
    assert len(doubting(chain(sure)).answer(method).completions) == 2
    assert len(doubting(chain(unsure)).answer(method).completions) == 4
    assert len(doubting(chain(sure)).answer(method).completions) == 2


def test_no_answer_anywhere(doubting):
    answer = doubting(chain(["none", "no?ne", "T: no. T: no.", "T: on. T: no."])).answer(
        Confidence(samples=4, warm_up=2)
    )
    assert answer.text == "none"


# -- budget


def test_a_budget_that_ends_in_the_warm_up(world):
    made = world(chain(["A: 1", "A: 2", "A: 2"]), budget=12, max_new_tokens=5)
    answer = made.answer(Confidence(samples=3, warm_up=3))
    assert answer.text == "A: 1"
    assert [c.text for c in answer.completions] == ["A: 1", "A: 2"]  # the third was cut, and is no vote
    assert made.run.ledger.sampled_tokens <= 12
    made = world(chain(["A: 1"]), budget=2, max_new_tokens=5)
    assert made.answer(Confidence()).text == "A:"  # better than nothing
    with pytest.raises(BudgetSpentError):
        world(chain(["A: 1"] * 3), budget=0).answer(Confidence(samples=3, warm_up=3))


def test_what_the_budget_cut_off_is_no_trace_beside_a_whole_one(doubting):
    made = doubting(chain(["A: ?1", "T: so it is.\nA: 2"]), budget=13, max_new_tokens=10)
    answer = made.answer(Confidence(samples=2, warm_up=2, window=2, keep=1e-9))  # the surest alone, and that was cut
    assert [c.text for c in answer.completions] == [answer.text] == ["A: ?1"]


@pytest.mark.parametrize("left", range(34))
def test_a_budget_that_ends_later(world, left):
    texts = ["A: 5", *(f"T: {k}+1. T: go on.\nA: 2" for k in (7, 8))]
    made = world(chain(texts), budget=5 + left, max_new_tokens=22)
    answer = made.answer(Confidence(samples=3, warm_up=1))
    assert made.run.ledger.sampled_tokens <= 5 + left
    assert answer.text == "A: 5"
    assert {c.text for c in answer.completions} == {"A: 5"}  # half a sum is no answer


# -- the tiny model


def test_the_warm_up_is_drawn_as_by_self_consistency(tiny_model):
    def answer(method):
        run = Run(2, problem_id="p", max_new_tokens=24, counts="sampled_tokens")
        return method.answer(tiny_model, "1+1?", run), run

    few, many = answer(Confidence(samples=4, warm_up=4, keep=1.0))[0], answer(SelfConsistency())[0]
    assert [c.tokens for c in few.completions] == [c.tokens for c in many.completions[:4]]
    (found, run), (again, _) = answer(Confidence(keep=0.5)), answer(Confidence(keep=0.5))
    assert found == again
    assert 1 <= len(found.completions) < 16
    assert found.text in [c.text for c in found.completions]
    assert run.ledger.sampled_tokens > sum(len(c.tokens) for c in found.completions)  # what was stopped is counted


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(("samples", 0), ("warm_up", 0), ("warm_up", 17), ("window", 0), ("keep", 0.0), ("keep", 1.5)),
        *(("temperature", -0.1), ("temperature", float("inf"))),
    ],
)
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"^confidence: {field} must be .*, not "):
        Confidence(**{field: value})
