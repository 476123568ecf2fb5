"""Judges: what they read, in which order, and what they leave unsaid."""

import pytest
import torch

from harness.toolbox import compare_by_scores, compare_by_tokens
from harness.toolbox.judges import ASK

TEXTS = [("A: 1", "A: 77 no"), ("T: 1+1=2. A: 2", "B"), ("A: 9", "A: 8")]
SWAPPED = [pair[::-1] for pair in TEXTS]


def test_a_score_is_the_judges_mean_log_probability_behind_its_cue(judge, compared, toy_data):
    def score(problem, text):
        ids, target = judge.encode_prompt(f"{problem.prompt} think!"), judge.encode_completion(text)
        with torch.no_grad():
            logprobs = judge.module(torch.tensor([ids + target])).logits[0].log_softmax(-1)
        return sum(float(logprobs[len(ids) + t - 1, token]) for t, token in enumerate(target)) / len(target)

    gaps = [(score(p, a) - score(p, b)) / 0.5 for p, (a, b) in zip(toy_data.problems, TEXTS, strict=False)]
    forth, back = compare_by_scores(judge, compared(TEXTS), "think!", 0.5)
    assert forth.tolist() == pytest.approx(gaps, rel=1e-3)
    assert torch.equal(back, -forth)  # so both orders agree


def test_what_does_not_fit_the_judge_is_a_tie(make_model, judge, compared, favour):
    small = make_model(max_position_embeddings=24)
    forth, back = compare_by_scores(small, compared([("A: 1", "A: " + "7" * 40), ("A: 1", "A: 2")]), "", 1.0)
    assert forth.isnan().tolist() == [True, False]
    favour(judge)
    lengths = [len(judge.encode_prompt(ASK.format(question="0+1?", one=a, two=b))) for a, b in TEXTS]
    judge.tokenizer.model_max_length = max(lengths)  # leaves no room for the answer behind the longest
    forth, back = compare_by_tokens(judge, compared(TEXTS))
    assert forth.isnan().tolist() == back.isnan().tolist() == [n == max(lengths) for n in lengths]


def test_a_judge_of_both_is_asked_in_both_orders(judge, compared, toy_data, favour):
    favour(judge)
    one, two = (judge.encode_completion(word)[0] for word in "12")

    def gap(problem, a, b):
        ids = judge.encode_prompt(ASK.format(question=problem.prompt, one=a, two=b))
        with torch.no_grad():
            logits = judge.module(torch.tensor([ids])).logits[0, -1]
        return float(logits[one] - logits[two])

    forth, back = compare_by_tokens(judge, compared(TEXTS))
    problems = toy_data.problems[:3]
    assert forth.tolist() == pytest.approx([gap(p, *t) for p, t in zip(problems, TEXTS, strict=True)], rel=1e-3)
    assert back.tolist() == pytest.approx([gap(p, *t) for p, t in zip(problems, SWAPPED, strict=True)], rel=1e-3)


def test_a_judge_that_says_neither_has_said_nothing(judge, compared, favour):
    favour(judge, factor=-1.0)
    forth, back = compare_by_tokens(judge, compared(TEXTS))
    assert forth.isnan().all()
    assert back.isnan().all()


def test_a_judge_without_these_words_is_refused(judge, compared, monkeypatch):
    monkeypatch.setattr(judge, "encode_completion", lambda text: [3, 2])
    with pytest.raises(ValueError, match="set compare to 'scores'"):
        compare_by_tokens(judge, compared(TEXTS))
