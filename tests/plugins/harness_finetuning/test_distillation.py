"""Distillation: the forward KL by hand, T^2, the teacher beside the budget, and a student that comes closer."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness_finetuning import distillation
from harness_finetuning.cot_sft import CoTSFT
from harness_finetuning.distillation import Distillation, forward_kl

UNCUED = Distillation(cue="", lr=1e-2, batch_size=12)


def logits(*probabilities):
    return torch.tensor([probabilities]).log()


def test_by_hand():
    """Student (1/2, 1/2), teacher (1/4, 3/4): 1/4 ln 1/2 + 3/4 ln 3/2; the reverse KL would be 1/2 ln 4/3."""
    found = forward_kl(logits(0.5, 0.5), logits(0.25, 0.75), 1.0)
    assert found.tolist() == pytest.approx([0.25 * math.log(0.5) + 0.75 * math.log(1.5)], rel=1e-5)
    assert found.item() == pytest.approx(0.130812, rel=1e-5)
    assert found.item() != pytest.approx(0.5 * math.log(4 / 3), rel=0.05)


def test_temperature_by_hand():
    """T = 2 takes square roots: the student stays at (1/2, 1/2), a teacher of (1/10, 9/10) becomes (1/4, 3/4)."""
    assert forward_kl(logits(0.5, 0.5), logits(0.1, 0.9), 2.0).item() == pytest.approx(4 * 0.130812, rel=1e-5)


def test_t_squared_keeps_the_gradient_as_large_as_without_a_temperature():
    """For T far above the logits the gradient is (student - teacher) / V, whatever T (Hinton et al., eq. (4))."""
    student, teacher = torch.tensor([[0.3, -0.1, -0.2]], requires_grad=True), torch.tensor([[-0.2, 0.1, 0.1]])
    for temperature in (50.0, 100.0):
        (gradient,) = torch.autograd.grad(forward_kl(student, teacher, temperature).sum(), student)
        assert torch.allclose(gradient, (student - teacher) / 3, rtol=0.02)


@pytest.mark.parametrize("temperature", [1.0, 3.0])
def test_a_student_like_its_teacher_has_nothing_to_learn(temperature):
    student = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = forward_kl(student, student.detach(), temperature)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert torch.allclose(loss, torch.zeros(5), atol=1e-6)
    assert torch.allclose(gradient, torch.zeros(5, 9), atol=1e-6)


def test_a_twin_of_the_model_teaches_it_nothing(distil, tiny_model, monkeypatch):
    gradients = []
    monkeypatch.setattr(distillation, "update", lambda optimizer: gradients.append(norm(tiny_model)))
    run = distil(UNCUED, tokens=500, teacher=tiny_model.clone())
    assert run.curve[0]["loss"] == pytest.approx(0, abs=1e-6)
    assert max(gradients) < 1e-5


def norm(model):
    return torch.cat([p.grad.flatten() for p in model.module.parameters()]).norm().item()


def test_it_comes_closer_to_its_teacher(distil, tiny_model, teacher, mean_kl):
    before, weights = mean_kl(teacher, tiny_model), teacher.fingerprint()
    distil(UNCUED, tokens=6000)
    assert mean_kl(teacher, tiny_model) < 0.5 * before
    assert teacher.fingerprint() == weights
    assert all(p.grad is None for p in teacher.parameters())


def test_the_first_loss_is_the_mean_over_all_tokens(distil, tiny_model, teacher, mean_kl):
    by_hand = mean_kl(teacher, tiny_model)
    run = distil(dataclasses.replace(UNCUED, batch_size=12, temperature=1.0), tokens=1)
    assert [point["loss"] for point in run.curve] == pytest.approx([by_hand], rel=1e-4)


def test_the_same_seed_gives_the_same_weights(distil, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        distil(UNCUED, tokens=1500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint() != make_model(seed=3).fingerprint()


def test_it_sees_as_many_student_tokens_as_its_control_and_books_the_teachers(distil, train, make_model):
    control = train(CoTSFT(batch_size=12), tokens=2000, model=make_model(seed=3))
    run = distil(UNCUED, tokens=2000, model=make_model(seed=3))
    assert [p["tokens"] for p in run.curve] == [p["tokens"] for p in control.curve]
    assert run.ledger.trained_tokens == control.ledger.trained_tokens == run.spent
    assert (
        run.ledger.other_tokens == run.ledger.scored_tokens == run.ledger.trained_tokens
    )  # the teacher reads the same
    assert run.ledger.total_tokens == 2 * control.ledger.total_tokens
    assert run.ledger.flops > control.ledger.flops


def test_only_the_teacher_sees_the_cue(distil, tiny_model, teacher, monkeypatch):
    asked = {"student": set(), "teacher": set()}
    for who, model in (("student", tiny_model), ("teacher", teacher)):
        real = model.encode_prompt
        monkeypatch.setattr(model, "encode_prompt", lambda p, who=who, real=real: asked[who].add(p) or real(p))
    distil(dataclasses.replace(UNCUED, cue="Think.", batch_size=12), tokens=1)
    assert len(asked["student"]) == 12
    assert asked["teacher"] == {f"{prompt} Think." for prompt in asked["student"]}


def test_problems_without_a_rationale_are_left_out(distil, toy_data):
    bare = [dataclasses.replace(p, rationale=None) for p in toy_data.problems]
    with pytest.raises(ValueError, match="nothing to train on"):
        distil(UNCUED, data=dataclasses.replace(toy_data, problems=bare))


def test_another_vocabulary_is_refused(distil, teacher):
    teacher.tokenizer.add_tokens(["<more>"])
    with pytest.raises(ValueError, match="vocabularies differ"):
        distil(UNCUED)


def test_without_its_teacher_it_says_which(tiny_model, toy_data):
    with pytest.raises(LookupError, match="'tiny-teacher'"):
        Distillation().train(tiny_model, toy_data, Run(0, budget=10))
