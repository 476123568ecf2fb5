"""Beam search: the best of each depth go on, what has ended keeps its place, N branches at most, weighted vote."""

import random

import pytest

from harness import BudgetSpentError, Run, Scores
from harness.toolbox import charge, draw
from harness_test_time.beam_search import BeamSearch
from harness_test_time.self_consistency import SelfConsistency


def follow(*solutions):
    """Speak these at the root, one after another and round again, and of each what is left of it later on."""

    def speak(said, number):
        text = solutions[number % len(solutions)] if not said else next(s for s in solutions if s.startswith(said))
        return text[len(said) :]

    return speak


def rows(requests):
    return sum(len(request.seeds) for request in requests)


def test_the_best_n_over_m_of_a_depth_are_grown_by_m_steps_each_in_one_batch(world):
    chances = {"a.": 0.1, "b.": 0.9, "c.": 0.8, "d.": 0.2}
    made = world(
        lambda said, number: f"{number} A: 1" if said else f"{'abcd'[number]}. A: 1", lambda t: chances.get(t, 0.5)
    )
    answer = made.answer(BeamSearch(beams=4, expand=2, temperature=0.8))
    assert made.judged == [["a.", "b.", "c.", "d."], ["b.0 A: 1", "b.1 A: 1", "c.0 A: 1", "c.1 A: 1"]]
    assert [[len(request.seeds) for request in requests] for requests in made.drawn] == [[4], [2, 2]]
    assert {request.temperature for requests in made.drawn for request in requests} == {0.8}
    assert [c.text for c in answer.completions] == made.judged[1]


def test_with_one_step_a_branch_and_a_constant_score_it_is_sampling_and_a_vote(world):
    solutions = ["a. b. A: 1", "b. A: 2", "c. A: 2", "d. e. f. A: 1", "e. A: 2", "A: 3"]
    beam, plain = world(follow(*solutions), lambda _: 0.5), world(follow(*solutions))
    searched, sampled = beam.answer(BeamSearch(beams=6, expand=1)), plain.answer(SelfConsistency(samples=6))
    assert searched.text == sampled.text == "b. A: 2"
    assert sorted(c.text for c in searched.completions) == sorted(solutions)
    assert sorted(c.tokens for c in searched.completions) == sorted(c.tokens for c in sampled.completions)
    assert beam.run.spent == plain.run.spent


def test_solutions_vote_by_their_scores_or_the_best_answers(world):
    chances = {"A: 1": 0.4, "x A: 2": 0.35, "y A: 2": 0.3}
    for choose, text in (("vote", "x A: 2"), ("best", "A: 1")):
        made = world(follow(*chances), chances.__getitem__)
        assert made.answer(BeamSearch(beams=3, expand=3, choose=choose)).text == text


def test_what_has_ended_keeps_its_place_and_is_not_grown_again(world):
    made = world(follow("A: 7", "b. A: 1", "c. A: 1", "d. A: 1"), lambda text: {"A: 7": 0.9, "c.": 0.8}.get(text, 0.3))
    answer = made.answer(BeamSearch(beams=4, expand=2))
    assert [rows(requests) for requests in made.drawn] == [4, 2]  # 3 places are left: one branch, two steps
    assert made.judged == [["A: 7", "b.", "c.", "d."], ["c. A: 1"]]
    assert [c.text for c in answer.completions] == ["A: 7", "c. A: 1", "c. A: 1"]
    assert answer.text == "A: 7"


def test_a_branch_competes_with_none_of_another_depth(world):
    made = world(follow("A: 1", "b. A: 2"), {"A: 1": 0.9, "b.": 0.1, "b. A: 2": 0.95}.__getitem__)
    answer = made.answer(BeamSearch(beams=2, expand=2))
    assert [c.text for c in answer.completions] == ["A: 1", "b. A: 2"]
    assert answer.text == "b. A: 2"


@pytest.mark.parametrize(("beams", "expand"), [(16, 4), (12, 3), (8, 8), (8, 1), (6, 2), (1, 1)])
def test_there_are_never_more_than_n_branches(world, beams, expand):
    for seed in range(8):
        chance, ended = random.Random(seed), []

        def speak(said, number, chance=chance, ended=ended):
            ended.append(chance.random() < 0.3)
            return f" A: {chance.randrange(3)}" if ended[-1] else f"{chance.choice('abcdef')}. and on"

        made = world(speak, lambda _, chance=chance: chance.random())
        made.answer(BeamSearch(beams=beams, expand=expand))
        first = 0
        for requests in made.drawn:
            assert 1 <= sum(ended[:first]) + rows(requests) <= beams
            first += rows(requests)
        assert rows(made.drawn[0]) == beams


def test_equal_open_branches_are_one_and_judged_once(world):
    made = world(
        follow("a. A: 1", "a. A: 1", "b. A: 2", "c. A: 3"),
        lambda text: {"a.": 0.9, "b.": 0.8, "c.": 0.1}.get(text, 0.5),
    )
    made.answer(BeamSearch(beams=4, expand=2))
    assert made.judged == [["a.", "b.", "c."], ["a. A: 1", "b. A: 2"]]
    assert [len(request.seeds) for request in made.drawn[1]] == [2, 2]


def test_equal_solutions_are_judged_once_and_vote_each(world):
    made = world(follow("A: 1", "A: 2", "A: 2"), {"A: 1": 0.5, "A: 2": 0.3}.__getitem__)
    answer = made.answer(BeamSearch(beams=3, expand=1))
    assert made.judged == [["A: 1", "A: 2"]]
    assert answer.text == "A: 2"
    assert len(answer.completions) == 3
    assert all(completion in made.run.judged for completion in answer.completions)


def test_it_goes_on_until_everything_has_ended(world):
    long = "a. b. c. d. e. f. g. h. i. j. A: 4.5"
    made = world(follow(long), lambda _: 0.5)
    answer = made.answer(BeamSearch(beams=2, expand=2))
    assert [answer.text, answer.completions[0].finish] == [long, "eos"]


def test_what_never_ends_is_cut_and_chosen_only_where_nothing_ended(world):
    def endless(said, number):
        return "A: 1." * 20

    made = world(endless, lambda text: 1 / len(text), max_new_tokens=12)
    answer = made.answer(BeamSearch(beams=4, expand=2))
    assert {(c.finish, len(c.tokens)) for c in answer.completions} == {("length", 12)}
    made = world(
        lambda said, n: "A: 2" if n == 3 and not said else endless(said, n), lambda t: 0.1 if t == "A: 2" else 0.9
    )
    answer = made.answer(BeamSearch(beams=4, expand=2))
    assert [c.text for c in answer.completions] == [answer.text] == ["A: 2"]


def test_within_a_budget_the_best_so_far_is_returned(world):
    solutions = ["A: 7", "bbb. so A: 1", "ccc. so A: 2", "ddd. so A: 3"]
    for budget in range(13, 90):  # of which an answer takes 13 at most
        made = world(follow(*solutions), lambda t: 0.9 if t[0] in "cd" else 0.2, budget=budget, max_new_tokens=13)
        answer = made.answer(BeamSearch(beams=4, expand=2))
        assert made.run.spent <= budget
        assert answer.text in {c.text for c in answer.completions}
        if 17 <= budget < 33:  # nothing has ended: the best is carried to its end
            assert answer.text == "ccc. so A: 2"
        if 33 <= budget < 35:  # one has ended, and no other can
            assert answer.text == "A: 7"
    assert answer.text == "ccc. so A: 2"
    made = world(follow(*solutions), lambda t: 0.9 if t[0] == "d" else 0.2, budget=29, max_new_tokens=13)
    assert made.answer(BeamSearch(beams=4, expand=2)).text == "ddd. so A: 3"
    with pytest.raises(BudgetSpentError):
        world(follow(*solutions), lambda _: 0.5, budget=0).answer(BeamSearch(beams=4, expand=2))


def test_no_answer_anywhere_is_still_a_text(world):
    made = world(follow("none", "nothing", "a. no"), lambda _: 0.0)
    answer = made.answer(BeamSearch(beams=3, expand=1))
    assert [c.text for c in answer.completions] == ["none", "nothing", "a. no"]
    assert answer.text == "none"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"beams": 0}, "beam-search: beams must be at least 1, not 0"),
        ({"expand": 0}, "beam-search: expand must be a divisor of beams, which is 16, not 0"),
        ({"expand": 3}, "beam-search: expand must be a divisor of beams, which is 16, not 3"),
        ({"temperature": -0.1}, "beam-search: temperature must be 0 or above, not -0.1"),
        ({"temperature": float("nan")}, "beam-search: temperature must be 0 or above, not nan"),
        ({"choose": "sum"}, "beam-search: choose must be vote or best, not 'sum'"),
    ],
)
def test_fields_out_of_range_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        BeamSearch(**fields)


def test_a_real_model_is_searched_alike_with_one_seed_and_within_its_budget(tiny_model):
    def submit(kind, payload):
        if kind == "score":
            return [Scores(len(set(c.tokens)) / 99) for c in payload[2]]
        run, model, requests = payload
        drawn = draw(model, requests)
        for request, completions in zip(requests, drawn, strict=True):
            charge(run, model, request, completions)
        return drawn

    answers, runs = [], []
    for seed in (4, 4, 5):
        runs.append(Run(seed, 200, "sampled_tokens", "p", 20, submit))
        answers.append(BeamSearch(beams=8, expand=2).answer(tiny_model, "1+1?", runs[-1]))
    assert answers[0] == answers[1] != answers[2]
    assert all(0 < run.spent <= 200 for run in runs)
    assert all(0 < len(c.tokens) <= 20 for answer in answers for c in answer.completions)
