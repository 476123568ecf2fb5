"""Particle filter: drawn by the odds of the last score alone, from seeds; what has ended keeps its weight."""

import random

import pytest

from harness import BudgetSpentError, Completion, Run, Scores
from harness.toolbox import charge, draw
from harness_test_time.particle_filter import ParticleFilter, odds, resample
from harness_test_time.self_consistency import SelfConsistency


def follow(*solutions):
    """Speak these at the root, one after another and round again, and of each what is left of it later on."""

    def speak(said, number):
        text = solutions[number % len(solutions)] if not said else next(s for s in solutions if s.startswith(said))
        return text[len(said) :]

    return speak


def texts(answer):
    return [c.text for c in answer.completions]


def test_a_weight_is_the_log_of_the_odds_and_has_an_end():
    assert odds(0.5) == 1
    assert odds(0.75) == pytest.approx(3)
    assert odds(0.0) == pytest.approx(1 / odds(1.0)) == pytest.approx(1e-7, rel=1e-3)
    assert odds(-3.0) == odds(0.0)


def test_particles_are_drawn_by_the_softmax_of_their_log_weights():
    good, poor = Completion("good", (1,), (0.0,), "stop"), Completion("poor", (2,), (0.0,), "stop")
    drawn = resample([(odds(0.75), good), (odds(0.25), poor)] * 5000, seed=1)
    assert len(drawn) == 10000
    assert drawn.count(good) / 10000 == pytest.approx(0.9, abs=0.01)  # odds 3 to 1/3; by the scores it would be 0.75
    assert resample([(1.0, good), (1.0, poor)] * 9, seed=1) == resample([(1.0, good), (1.0, poor)] * 9, seed=1)
    assert resample([(1.0, good), (1.0, poor)] * 9, seed=1) != resample([(1.0, good), (1.0, poor)] * 9, seed=2)


def test_all_particles_move_a_step_in_one_batch(world):
    made = world(follow("a. A: 1", "b. A: 2"), lambda _: 0.5)
    answer = made.answer(ParticleFilter(particles=8, temperature=0.8))
    assert [[len(request.seeds) for request in requests] for requests in made.drawn] == [[8], [1] * 8]
    assert len({seed for requests in made.drawn for request in requests for seed in request.seeds}) == 16
    assert {request.temperature for requests in made.drawn for request in requests} == {0.8}
    assert [made.judged[0], sorted(made.judged[1])] == [["a.", "b."], ["a. A: 1", "b. A: 2"]]  # equal ones once
    assert len(answer.completions) == 8
    assert all(completion in made.run.judged for completion in answer.completions)


def test_a_new_score_takes_the_place_of_the_last(world):
    chances = {"a.": 0.6, "b.": 0.5, "a. A: 1": 0.7, "b. A: 2": 0.75}  # multiplied, 1.5 * 2.33 beats 1 * 3
    answer = world(follow("a. A: 1", "b. A: 2"), chances.__getitem__).answer(ParticleFilter(particles=8, choose="best"))
    assert set(texts(answer)) == {"a. A: 1", "b. A: 2"}
    assert answer.text == "b. A: 2"


def test_the_last_set_votes_by_its_odds_or_the_highest_weight_answers(world):
    for best, choose, text in ((0.8, "vote", "A: 1"), (0.7, "vote", "x A: 2"), (0.7, "best", "A: 1")):
        chances = {"A: 1": best, "x A: 2": 0.6, "y A: 2": 0.6}  # odds 4 or 2.33 against 1.5 + 1.5
        made = world(follow(*chances), chances.__getitem__)
        assert made.answer(ParticleFilter(particles=3, choose=choose)).text == text


def test_nothing_is_drawn_from_the_last_set(world):
    for seed in range(20):
        made = world(follow("A: 1", "x A: 2"), {"A: 1": 0.6, "x A: 2": 0.4}.__getitem__)
        made.run.root_seed = seed
        answer = made.answer(ParticleFilter(particles=2))
        assert [answer.text, *texts(answer)] == ["A: 1", "A: 1", "x A: 2"]


def test_what_has_ended_keeps_its_weight_and_may_multiply(world):
    made = world(follow("A: 1", *["b. A: 2"] * 7), {"A: 1": 0.9, "b.": 0.4, "b. A: 2": 0.4}.__getitem__)
    answer = made.answer(ParticleFilter(particles=8))
    assert texts(answer).count("A: 1") > 1
    assert len(answer.completions) == 8
    assert made.judged == [["A: 1", "b."], ["b. A: 2"]]
    assert len(made.drawn[1]) == 8 - texts(answer).count("A: 1")


def test_a_poor_particle_can_die_and_a_poor_one_can_live(world):
    lived = []
    for seed in range(30):
        made = world(follow("a. A: 1", "b. A: 2"), lambda text: 0.75 if text[0] == "a" else 0.25)
        made.run.root_seed = seed
        lived.append("b. A: 2" in texts(made.answer(ParticleFilter(particles=4))))
    assert 0.1 < sum(lived) / 30 < 0.6  # 1 - 0.9^4 = 0.34


def test_chance_comes_from_the_seed_of_the_run_and_the_step_alone(world):
    def go(seed, problem="p"):
        made = world(follow("a. x. y. A: 1", "b. x. y. A: 2", "c. x. y. A: 3"), lambda _: 0.5)
        made.run.root_seed, made.run.problem_id = seed, problem
        return texts(made.answer(ParticleFilter(particles=12)))

    random.seed(1)
    first, state = go(3), random.getstate()
    random.seed(2)
    assert go(3) == first
    random.seed(1)
    assert random.getstate() == state
    assert first not in (go(4), go(3, "q"))


def test_scores_of_0_and_1_are_no_error(world):
    answer = world(follow("a. A: 1", "b. A: 2"), lambda text: float(text[0] == "a")).answer(ParticleFilter(particles=8))
    assert set(texts(answer)) == {"a. A: 1"}
    answer = world(follow("a. A: 1", "b. A: 2"), lambda _: 0.0).answer(ParticleFilter(particles=8))
    assert set(texts(answer)) == {"a. A: 1", "b. A: 2"}


def test_one_particle_is_plain_sampling(world):
    filtered, plain = world(follow("a. b. A: 4.5"), lambda _: 0.1), world(follow("a. b. A: 4.5"))
    answers = filtered.answer(ParticleFilter(particles=1)), plain.answer(SelfConsistency(samples=1))
    assert [answers[0].text, answers[0].completions[0].tokens] == [answers[1].text, answers[1].completions[0].tokens]
    assert filtered.run.spent == plain.run.spent


def test_what_never_ends_is_cut_and_chosen_only_where_nothing_ended(world):
    made = world(lambda said, number: "A: 1." * 20, lambda text: 1 / len(text), max_new_tokens=12)
    answer = made.answer(ParticleFilter(particles=4))
    assert {(c.finish, len(c.tokens)) for c in answer.completions} == {("length", 12)}
    solutions = ["A: 2", "A: 1 and so on and on and on and on"]
    made = world(follow(*solutions), lambda text: 0.1 if text == "A: 2" else 0.9, max_new_tokens=20)
    answer = made.answer(ParticleFilter(particles=2))
    assert [answer.text, *texts(answer)] == ["A: 2", "A: 2"]


def test_within_a_budget_the_best_so_far_is_returned(world):
    solutions = ["A: 7", "bbbb. A: 1", "cccc. A: 2", "dddd. A: 3"]
    for budget in range(11, 90):  # of which an answer takes 11 at most
        made = world(follow(*solutions), lambda t: 0.001 if "7" in t else 0.9, budget=budget, max_new_tokens=11)
        answer = made.answer(ParticleFilter(particles=4))
        assert made.run.spent <= budget
        assert answer.text in texts(answer)
        if 31 <= budget < 34:  # the rest outweighs what has ended, but cannot go on
            assert [answer.text, *texts(answer)] == ["A: 7", "A: 7"]
    assert answer.text != "A: 7"
    made = world(follow(*solutions), lambda t: 0.9 if t[0] == "d" else 0.2, budget=27, max_new_tokens=11)
    assert made.answer(ParticleFilter(particles=4)).text == "dddd. A: 3"  # nothing has ended: the best is carried on
    with pytest.raises(BudgetSpentError):
        world(follow(*solutions), lambda _: 0.5, budget=0).answer(ParticleFilter(particles=4))


def test_no_answer_anywhere_is_still_a_text(world):
    answer = world(follow("none", "nothing"), lambda _: 0.5).answer(ParticleFilter(particles=2))
    assert [answer.text, *texts(answer)] == ["none", "none", "nothing"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"particles": 0}, "particle-filter: particles must be at least 1, not 0"),
        ({"temperature": -0.1}, "particle-filter: temperature must be 0 or above, not -0.1"),
        ({"temperature": float("nan")}, "particle-filter: temperature must be 0 or above, not nan"),
        ({"choose": "sum"}, "particle-filter: choose must be vote or best, not 'sum'"),
    ],
)
def test_fields_out_of_range_are_named(fields, said):
    with pytest.raises(ValueError, match=said):
        ParticleFilter(**fields)


def test_a_real_model_is_filtered_alike_with_one_seed_and_within_its_budget(tiny_model):
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
        answers.append(ParticleFilter(particles=8).answer(tiny_model, "1+1?", runs[-1]))
    assert answers[0] == answers[1] != answers[2]
    assert all(0 < run.spent <= 200 for run in runs)
    assert all(0 < len(c.tokens) <= 20 for answer in answers for c in answer.completions)
