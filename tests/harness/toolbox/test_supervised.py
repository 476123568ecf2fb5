"""The examples that supervised methods learn, and their loop."""

import dataclasses

import pytest

from harness import Problem, Run, TrainingData
from harness.toolbox import adamw, completion_loss, fine_tune, update, worked_examples

WORKED = Problem("a", "1+1?", "2", "T: 1+1=2.")
BARE = Problem("b", "2+1?", "3")


def data(*problems):
    def target(problem, rationale):
        return f"{problem.rationale}\nA: {problem.answer}" if rationale else f"A: {problem.answer}"

    return TrainingData(problems, (), lambda problem, text: (True, text), target)


def test_a_worked_solution_is_learnt_where_there_is_one():
    both = [("1+1?", "T: 1+1=2.\nA: 2"), ("2+1?", "A: 3")]
    assert worked_examples(data(WORKED, BARE)) == both
    assert worked_examples(data(WORKED, BARE), unworked=False) == both[:1]


def test_calculator_annotations_are_not_taught():
    problem = dataclasses.replace(WORKED, rationale="48/2 = <<48/2=24>>24 is 2 < 3 << 4.")
    assert worked_examples(data(problem)) == [("1+1?", "48/2 = 24 is 2 < 3 << 4.\nA: 2")]


def test_one_step_is_that_of_the_loss_at_the_scheduled_rate(make_model):
    examples = worked_examples(data(WORKED, BARE))
    one, other = make_model(seed=3), make_model(seed=3)
    run = Run(0, budget=1)
    run.watch(one)
    fine_tune(one, examples, run, lr=1e-2, batch_size=2)
    loss = completion_loss(other, examples)
    update(adamw(other, 1e-3))  # the budget is spent: the schedule is at its floor, a tenth
    assert run.curve[0]["loss"] == pytest.approx(loss)
    assert one.fingerprint() == other.fingerprint()


def test_frozen_weights_stay(tiny_model):
    for parameter in tiny_model.module.model.layers.parameters():
        parameter.requires_grad_(False)
    before = tiny_model.clone()
    run = Run(0, budget=200)
    run.watch(tiny_model)
    fine_tune(tiny_model, worked_examples(data(WORKED, BARE)), run, lr=1e-2, batch_size=2)
    same = [bool((a == b).all()) for a, b in zip(tiny_model.parameters(), before.parameters(), strict=True)]
    assert same == [not parameter.requires_grad for parameter in tiny_model.parameters()]
    assert len(run.curve) > 1
