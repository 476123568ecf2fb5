"""Random score: it depends on the question and the seed, and on nothing that could help."""

from harness import Completion, Run
from harness_test_time.random_score import RandomScore


def scores(seed, problem, texts):
    completions = [Completion(t, (1,), (0.0,), "eos") for t in texts]
    return [s.total for s in RandomScore().score(None, "p", completions, Run(seed, problem_id=problem))]


def test_it_sees_neither_text_nor_answer():
    assert scores(1, "p", ["right", "wrong"]) == scores(1, "p", ["wrong", "right"])
    assert scores(1, "p", ["a", "b"]) != scores(1, "q", ["a", "b"])
    assert scores(1, "p", ["a", "b"]) != scores(2, "p", ["a", "b"])


def test_every_place_wins_about_equally_often():
    wins = [0] * 4
    for number in range(2000):
        drawn = scores(0, f"p{number}", "abcd")
        wins[drawn.index(max(drawn))] += 1
    assert all(420 < w < 580 for w in wins)  # 500 expected, four standard deviations are 77
