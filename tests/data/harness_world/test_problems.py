from random import Random

import pytest

from harness_world.problems import HIGH, LOW, Operation, draw_expression, draw_fact, draw_problem, work

PROBLEMS = [draw_problem(Random(f"t{seed}"), seed % 7 + 1) for seed in range(700)]


def test_a_story_worked_by_hand():
    story = (
        Operation("add", 12),
        Operation("halve"),
        Operation("groups", amount=5, groups=6),
        Operation("take", 4),
        Operation("double"),
    )
    steps = [str(step) for step in work(10, story)]
    assert steps == ["10+12=22", "22/2=11", "6*5=30", "11+30=41", "41-4=37", "37*2=74"]


@pytest.mark.parametrize("n_steps", range(1, 8))
def test_a_problem_has_the_steps_that_were_asked_for(n_steps):
    assert all(len(draw_problem(Random(seed), n_steps).steps) == n_steps for seed in range(50))


def test_the_total_stays_in_range_and_halves_are_whole():
    for problem in PROBLEMS:
        assert all(LOW <= step.result <= HIGH for step in problem.steps)
        assert all(step.left % 2 == 0 for step in problem.steps if step.sign == "/")


def test_every_step_evaluates_and_the_last_one_is_the_answer():
    arithmetic = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }
    for problem in PROBLEMS:
        assert all(arithmetic[s.sign](s.left, s.right) == s.result for s in problem.steps)
        assert problem.steps[-1].result == problem.answer


def test_the_same_seed_gives_the_same_problem():
    assert draw_problem(Random("x"), 5) == draw_problem(Random("x"), 5)


def test_the_question_says_the_start_and_every_amount():
    for problem in PROBLEMS:
        said = problem.question.replace(".", " ").split()
        amounts = [o.amount for o in problem.operations if o.amount] + [problem.start]
        assert all(str(amount) in said for amount in amounts)


def test_expressions_and_facts_mean_what_they_say():
    for seed in range(300):
        expression = draw_expression(Random(seed))
        terms = expression.question.removeprefix("What is ").removesuffix("?")
        assert sum(int(term) for term in terms.replace("-", "+-").split("+")) == expression.answer
        fact = draw_fact(Random(seed))
        said = fact.question.removeprefix("What is ").removesuffix("?")
        said = said.replace("half of ", "0.5*").replace("double ", "2*")
        for sign in "+-*/":
            if sign in said:
                left, right = map(float, said.split(sign, 1))
                value = {"+": left + right, "-": left - right, "*": left * right, "/": left / right}[sign]
                assert value == fact.answer
