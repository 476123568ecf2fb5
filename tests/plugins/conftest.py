"""What the tests of the methods share: toy data for the random model of the suite."""

import pytest

from harness import Pair, Problem, Run, TrainingData


def render_target(problem, rationale):
    answer = f"A: {problem.answer}"
    return f"{problem.rationale}\n{answer}" if rationale else answer


def verify(problem, text):
    said = text.rpartition("A: ")[2].strip() or None
    return said == problem.answer, said


@pytest.fixture
def toy_data():
    problems = [Problem(f"p{i}", f"{i}+1?", str(i + 1), f"T: {i}+1={i + 1}.") for i in range(12)]
    pairs = [Pair(p.id, p.prompt, f"A: {p.answer}", "A: no") for p in problems]
    return TrainingData(problems, problems[:2], verify, render_target, pairs)


@pytest.fixture
def train(tiny_model, toy_data):
    """Train the random model with a method for a budget of tokens; the run, and the model afterwards."""

    def go(method, tokens=6000, data=toy_data, model=tiny_model):
        run = Run(7, budget=tokens, max_new_tokens=12)
        run.watch(model)
        with run.pays():
            method.train(model, data, run)
        run.close()
        return run

    return go
