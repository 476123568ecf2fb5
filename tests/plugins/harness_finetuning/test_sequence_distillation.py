"""Sequence distillation: the student learns text that the teacher wrote, ended and got right; the teacher is booked."""

import dataclasses

import pytest

from harness import Completion, Run
from harness.toolbox import sample
from harness_finetuning import sequence_distillation
from harness_finetuning.cot_sft import CoTSFT
from harness_finetuning.sequence_distillation import SequenceDistillation

METHOD = SequenceDistillation(cue="", lr=1e-2, batch_size=12)


def said(text, finish="eos"):
    return Completion(text, (5, 6), (0.0, 0.0), finish)


@pytest.fixture
def solutions(tiny_model, toy_data, monkeypatch):
    """What is kept of completions that are given by hand, for the first problems."""

    def go(method, *drawn):
        monkeypatch.setattr(sequence_distillation, "sample_many", lambda *args, **options: list(drawn))
        problems = toy_data.problems[: len(drawn)]
        return method.solutions(tiny_model, problems, toy_data, Run(0))

    return go


def test_the_first_right_solution_of_a_problem_is_learnt(solutions, toy_data):
    kept = solutions(
        METHOD,
        [said("so A: 9"), said("is A: 1"), said("by A: 1")],
        [said("A: 9"), said("hm")],  # never right: left out
        [said("A: 3"), said("A: 3")],
    )
    assert kept == [(toy_data.problems[0].prompt, "is A: 1"), (toy_data.problems[2].prompt, "A: 3")]


def test_what_was_cut_short_is_never_learnt(solutions):
    """It would be learnt with an end that the teacher did not write."""
    for verified in (True, False):
        method = dataclasses.replace(METHOD, verified=verified)
        assert solutions(method, [said("A: 1", "length")]) == []


def test_unverified_it_learns_what_the_teacher_says(solutions, toy_data):
    kept = solutions(dataclasses.replace(METHOD, verified=False), [said("so A: 9"), said("A: 1")])
    assert kept == [(toy_data.problems[0].prompt, "so A: 9")]


def test_only_the_teacher_sees_the_cue(tiny_model, toy_data, monkeypatch):
    asked = []

    def watch(teacher, prompts, run, **options):
        asked.append((prompts, options))
        return [[said(f"A: {p.answer}")] for p in toy_data.problems[: len(prompts)]]

    monkeypatch.setattr(sequence_distillation, "sample_many", watch)
    method = SequenceDistillation(cue="Think.", samples=3, temperature=0.5)
    kept = method.solutions(tiny_model, toy_data.problems[:2], toy_data, Run(0))
    assert asked == [(["0+1? Think.", "1+1? Think."], {"ids": ["p0", "p1"], "n": 3, "temperature": 0.5})]
    assert kept == [("0+1?", "A: 1"), ("1+1?", "A: 2")]


def test_the_student_learns_what_its_teacher_knows(distil, train, tiny_model, teacher, toy_data):
    train(CoTSFT(lr=1e-2, batch_size=12), tokens=12_000, model=teacher)
    for parameter in teacher.parameters():
        parameter.grad = None
    weights = teacher.fingerprint()
    run = distil(dataclasses.replace(METHOD, samples=1), tokens=7000, max_new_tokens=30)
    assert run.curve[-1]["loss"] < 0.3 * run.curve[1]["loss"]
    assert run.curve[0]["solved"] > 0.5
    assert teacher.fingerprint() == weights
    assert all(p.grad is None for p in teacher.parameters())
    [completion] = sample(tiny_model, toy_data.problems[3].prompt, Run(0, max_new_tokens=30), temperature=0.0)
    assert completion.text.startswith("T: ")
    assert completion.finish == "eos"
    assert run.ledger.trained_tokens == run.spent  # as many student tokens as any other method sees
    assert run.ledger.other_tokens == run.ledger.prompt_tokens + run.ledger.sampled_tokens > 0


def test_a_teacher_that_is_never_right_ends_in_words(distil, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (False, None))
    with pytest.raises(ValueError, match="solved none of 12 problems"):
        distil(METHOD, data=data)


def test_vocabularies_may_differ(distil, teacher, toy_data, monkeypatch):
    teacher.tokenizer.add_tokens(["<more>"])
    monkeypatch.setattr(
        sequence_distillation, "sample_many", lambda t, prompts, *_, **__: [[said("hm")]] * len(prompts)
    )
    run = distil(dataclasses.replace(METHOD, verified=False), tokens=200)
    assert run.ledger.trained_tokens >= 200


def test_the_same_seed_gives_the_same_weights(distil, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        method = dataclasses.replace(METHOD, verified=False, samples=8)
        distil(method, tokens=800, model=model, teacher=make_model(seed=5, sharpness=0.02), max_new_tokens=60)
    assert models[0].fingerprint() == models[1].fingerprint() != make_model(seed=3).fingerprint()


def test_without_its_teacher_it_says_which(tiny_model, toy_data):
    with pytest.raises(LookupError, match="'tiny-teacher'"):
        SequenceDistillation().train(tiny_model, toy_data, Run(0, budget=10))
