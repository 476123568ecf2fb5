"""lm-evaluation-harness' filters, on the same completions, must elect the answer that `vote` elects.

The filters are those of its self-consistency tasks: the first k responses, an answer out of each, the majority of them.
Where they choose otherwise, the test's name says how.
"""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness import Completion
from harness.toolbox import final_answer, vote

pytest.importorskip("lm_eval", reason="lm_eval is not installed: `make peers` does it")
from lm_eval.api.instance import Instance
from lm_eval.filters import build_filter_ensemble
from lm_eval.filters.selection import MajorityVoteFilter, TakeKFilter

READ = {"regex_pattern": r"The answer is (\-?[0-9\.\,]*[0-9]+)"}  # of gsm8k-cot-self-consistency
SAID = st.sampled_from(["A: 1", "so A: 1.0", "#### 1", "A: -2", "A: 1,000", "A: 1000", "no idea", "", "A:"])
INTEGERS = st.integers(-3, 3).map("1 and 1 make it. The answer is {}.".format)


def completions(texts):
    return [Completion(text, (), (), "eos") for text in texts]


def elected(texts):
    return final_answer(vote(completions(texts)).text)


def majority(texts):
    """What its majority filter makes of the answers in one question's responses; it is handed no silence."""
    answers = [answer for text in texts if (answer := final_answer(text)) is not None]
    return next(iter(MajorityVoteFilter().apply([answers], [{}])))[0] if answers else None


def pipeline(k, texts):
    """`maj@k` of its own task: the answer to one question with these responses."""
    steps = [("take_first_k", {"k": k}), ("regex", READ), ("majority_vote", None), ("take_first", None)]
    question = Instance("generate_until", {}, (), 0, resps=list(texts))
    build_filter_ensemble("maj", steps).apply([question])
    return question.filtered_resps["maj"]


@given(st.lists(SAID, min_size=1, max_size=20))
def test_the_majority_of_what_was_read_is_the_same_ties_included(texts):
    assert elected(texts) == majority(texts)


@given(st.lists(SAID, min_size=1, max_size=20), st.data())
def test_the_vote_of_the_first_k_is_the_same(texts, data):
    k = data.draw(st.integers(1, len(texts)))
    [first] = TakeKFilter(k=k).apply([texts], [{}])
    assert elected(texts[:k]) == majority(first)


@given(st.lists(INTEGERS, min_size=8, max_size=16))
def test_its_own_task_elects_the_same_of_answers_that_both_read(texts):
    assert pipeline(8, texts) == elected(texts[:8])


def test_silence_is_an_answer_there_and_no_vote_here():
    texts = ["no idea", "The answer is 5", "none"]
    assert (pipeline(3, texts), elected(texts)) == ("[invalid]", "5")


def test_one_number_in_two_forms_is_two_answers_there_and_one_here():
    texts = [f"The answer is {said}" for said in ("7", "1,000", "7", "1000", "1000.0")]
    assert (pipeline(5, texts), elected(texts)) == ("7", "1000")


def test_the_first_that_can_be_read_counts_there_and_the_last_here():
    texts = ["The answer is 3", "The answer is 4", "The answer is 3? No. The answer is 4"]
    assert (pipeline(3, texts), elected(texts)) == ("3", "4")


def test_too_few_for_k_are_refused_there_and_nothing_to_vote_on_here():
    with pytest.raises(AssertionError, match="at least 2 responses"):
        list(TakeKFilter(k=2).apply([["1"]], [{}]))
    with pytest.raises(ValueError, match="nothing to vote on"):
        vote([])
