"""DVTS: each subtree keeps the best of its own steps, all advance in one batch, one solution a subtree votes."""

import random

import pytest

from harness import BudgetSpentError, Run, Scores
from harness.toolbox import charge, draw
from harness_test_time.dvts import DVTS


def follow(*solutions):
    """Speak these at the root, one after another, and of each what is left of it later on."""

    def speak(said, number):
        text = solutions[number] if not said else next(s for s in solutions if s.startswith(said))
        return text[len(said) :]

    return speak


def wander(seed):
    """Steps and ends as chance will have it, the same for the same place and number."""

    def speak(said, number):
        chance = random.Random(f"{seed} {said} {number}")
        return f" A: {chance.randrange(3)}" if chance.random() < 0.3 else f"{chance.choice('abcdef')}. and on"

    return speak


def chance_of(text):
    return random.Random(text).random()


@pytest.mark.parametrize("seed", range(10))
def test_one_subtree_is_a_greedy_search(world, seed):
    speak = wander(seed)
    made = world(speak, chance_of)
    answer = made.answer(DVTS(beams=4, expand=4))
    said, steps, ended = "", 0, False
    while not ended:
        drawn = [speak(said, number) for number in range(4)]
        texts = [said + step.split(".")[0] + "." * ("." in step) for step in drawn]
        said = max(texts, key=chance_of)
        ended, steps = not said.endswith("."), steps + 1
    assert answer.text == said
    assert [[len(request.seeds) for request in requests] for requests in made.drawn] == [[4]] * steps


def test_each_subtree_keeps_its_own_best_and_all_grow_in_one_batch(world):
    chances = {"a.": 0.9, "b.": 0.8, "c.": 0.2, "d.": 0.1, "a.1 A: 1": 0.7, "c.1 A: 1": 0.2}
    made = world(
        lambda said, number: f"{number} A: 1" if said else f"{'abcd'[number]}. A: 1",
        lambda text: chances.get(text, 0.1),
    )
    answer = made.answer(DVTS(beams=4, expand=2, temperature=0.8))
    assert made.judged == [["a.", "b.", "c.", "d."], ["a.0 A: 1", "a.1 A: 1", "c.0 A: 1", "c.1 A: 1"]]
    assert [[len(request.seeds) for request in requests] for requests in made.drawn] == [[4], [2, 2]]
    assert {request.temperature for requests in made.drawn for request in requests} == {0.8}
    assert [c.text for c in answer.completions] == ["a.1 A: 1", "c.1 A: 1"]


def test_a_subtree_that_has_ended_is_done_and_a_solution_can_lose(world):
    made = world(
        follow("A: 1", "a. A: 2", "A: 3", "b. c. A: 4"),
        {"A: 1": 0.7, "a.": 0.6, "A: 3": 0.1, "b.": 0.3, "b. c.": 0.5, "b. c. A: 4": 0.8}.__getitem__,
    )
    answer = made.answer(DVTS(beams=4, expand=2))
    assert [[len(request.seeds) for request in requests] for requests in made.drawn] == [[4], [2], [2]]
    assert made.judged == [["A: 1", "a.", "A: 3", "b."], ["b. c."], ["b. c. A: 4"]]  # nothing is judged twice
    assert [c.text for c in answer.completions] == ["A: 1", "b. c. A: 4"]
    assert answer.text == "b. c. A: 4"


def test_one_solution_a_subtree_votes_by_its_score_or_the_best_answers(world):
    chances = {"A: 1": 0.6, "x A: 2": 0.55, "A: 3": 0.5, "y A: 2": 0.45, "z A: 3": 0.4, "A: 4": 0.1}
    for choose, text in (("vote", "A: 3"), ("best", "A: 1")):  # all six would say 2
        made = world(follow(*chances), chances.__getitem__)
        answer = made.answer(DVTS(beams=6, expand=2, choose=choose))
        assert [c.text for c in answer.completions] == ["A: 1", "A: 3", "z A: 3"]
        assert answer.text == text


def test_equal_solutions_of_two_subtrees_are_judged_once_and_vote_each(world):
    made = world(follow("A: 1", "A: 2", "A: 2"), {"A: 1": 0.5, "A: 2": 0.3}.__getitem__)
    answer = made.answer(DVTS(beams=3, expand=1))
    assert made.judged == [["A: 1", "A: 2"]]
    assert [answer.text, len(answer.completions)] == ["A: 2", 3]
    assert all(completion in made.run.judged for completion in answer.completions)


def test_what_is_unfinished_has_no_say_unless_nothing_is_finished(world):
    solutions = ["A: 1", "x A: 1", "A: 2 and so on and on and on", "A: 2 and more of the same and on"]
    made = world(follow(*solutions), lambda text: 0.1 if "1" in text else 0.9, max_new_tokens=20)
    answer = made.answer(DVTS(beams=4, expand=2))
    assert [c.text for c in answer.completions] == [answer.text] == ["A: 1"]
    made = world(lambda said, number: "A: 1." * 9, lambda text: 1 / len(text), max_new_tokens=12)
    answer = made.answer(DVTS(beams=4, expand=2))
    assert [(c.finish, len(c.tokens)) for c in answer.completions] == [("length", 12)] * 2


def test_a_step_that_was_cut_off_is_kept_only_if_all_were(world):
    solutions = ["aaaaaaaaaaaaaaaaaaaaaaaaaaa", "b. A: 1"]
    made = world(follow(*solutions), lambda text: 0.9 if text[0] == "a" else 0.1, max_new_tokens=20)
    assert made.answer(DVTS(beams=2, expand=2)).text == "b. A: 1"


def test_an_answer_is_not_over_before_its_end(world):
    made = world(lambda said, number: "a. b. A: 4.5"[len(said) :], lambda _: 0.5)
    answer = made.answer(DVTS(beams=4, expand=2))
    assert {(c.text, c.finish) for c in answer.completions} == {("a. b. A: 4.5", "eos")}


def test_all_that_was_drawn_is_paid_for(world):
    made = world(follow("A: 1", "x A: 2", "yy A: 2", "z A: 1"), chance_of)
    made.answer(DVTS(beams=4, expand=4))
    assert made.run.ledger.sampled_tokens == 5 + 7 + 8 + 7


def test_within_a_budget_the_best_so_far_is_returned(world):
    solutions = ["A: 7", "A: 8", "ccc. so A: 2", "ddd. so A: 3"]
    for budget in range(13, 90):  # of which an answer takes 13 at most
        made = world(follow(*solutions), lambda t: 0.9 if t[0] in "cd" else 0.2, budget=budget, max_new_tokens=13)
        answer = made.answer(DVTS(beams=4, expand=2))
        assert made.run.spent <= budget
        assert answer.text in {c.text for c in answer.completions}
        if 17 <= budget < 33:  # nothing has ended: the best is carried to its end
            assert answer.text == "ccc. so A: 2"
        if 33 <= budget < 36:  # one subtree has ended, and the other cannot
            assert answer.text == "A: 7"
    assert answer.text == "ccc. so A: 2"
    made = world(follow(*solutions), lambda t: 0.9 if t[0] == "d" else 0.2, budget=29, max_new_tokens=13)
    assert made.answer(DVTS(beams=4, expand=2)).text == "ddd. so A: 3"
    with pytest.raises(BudgetSpentError):
        world(follow(*solutions), lambda _: 0.5, budget=0).answer(DVTS(beams=4, expand=2))


def test_no_answer_anywhere_is_still_a_text(world):
    answer = world(follow("none", "nothing", "a. no"), lambda _: 0.0).answer(DVTS(beams=3, expand=1))
    assert [c.text for c in answer.completions] == ["none", "nothing", "a. no"]
    assert answer.text == "none"


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"beams": 0}, "dvts: beams must be at least 1, not 0"),
        ({"expand": 0}, "dvts: expand must be a divisor of beams, which is 16, not 0"),
        ({"expand": 3}, "dvts: expand must be a divisor of beams, which is 16, not 3"),
        ({"temperature": -0.1}, "dvts: temperature must be 0 or above, not -0.1"),
        ({"temperature": float("nan")}, "dvts: temperature must be 0 or above, not nan"),
        ({"choose": "sum"}, "dvts: choose must be vote or best, not 'sum'"),
    ],
)
def test_fields_out_of_range_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        DVTS(**fields)


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
        answers.append(DVTS(beams=8, expand=2).answer(tiny_model, "1+1?", runs[-1]))
    assert answers[0] == answers[1] != answers[2]
    assert all(0 < run.spent <= 200 for run in runs)
    assert all(0 < len(c.tokens) <= 20 for answer in answers for c in answer.completions)
