"""Reverse-KL distillation: the direction by hand, on what the student writes, with no gradient through its sampling."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness_finetuning import reverse_kl as module
from harness_finetuning.reverse_kl import ReverseKLDistillation, reverse_kl

UNCUED = ReverseKLDistillation(cue="", lr=1e-2, batch_size=12)


def logits(*probabilities):
    return torch.tensor([probabilities]).log()


def test_by_hand():
    """Student (1/2, 1/2), teacher (1/4, 3/4): 1/2 ln 2 + 1/2 ln 2/3; the forward KL would be 0.130812."""
    found = reverse_kl(logits(0.5, 0.5), logits(0.25, 0.75))
    assert found.tolist() == pytest.approx([0.5 * math.log(4 / 3)], rel=1e-5)
    assert found.item() == pytest.approx(0.143841, rel=1e-5)
    assert found.item() != pytest.approx(0.130812, rel=0.05)


def test_by_hand_its_gradient_is_that_of_the_exact_expectation():
    """d KL / d z_v = p_v (log p_v/q_v - KL): no term of the sum over words is held constant."""
    student, teacher = logits(0.5, 0.3, 0.2).requires_grad_(), logits(0.2, 0.2, 0.6)
    (gradient,) = torch.autograd.grad(reverse_kl(student, teacher).sum(), student)
    p, q = (0.5, 0.3, 0.2), (0.2, 0.2, 0.6)
    kl = sum(a * math.log(a / b) for a, b in zip(p, q, strict=True))
    assert gradient[0].tolist() == pytest.approx(
        [a * (math.log(a / b) - kl) for a, b in zip(p, q, strict=True)], rel=1e-5
    )


def test_a_twin_of_the_model_teaches_it_nothing(distil, tiny_model, monkeypatch):
    gradients = []
    monkeypatch.setattr(module, "update", lambda optimizer: gradients.append(gradient(tiny_model).norm().item()))
    run = distil(UNCUED, tokens=300, teacher=tiny_model.clone())
    assert run.curve[0]["loss"] == pytest.approx(0, abs=1e-6)
    assert max(gradients) < 1e-5


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.module.parameters()]).clone()


def test_the_gradient_takes_the_samples_as_given(distil, tiny_model, teacher, toy_data, monkeypatch):
    """By hand: the same tokens as fixed targets, row by row, without padding."""
    seen, drawn = [], []
    real = module.sample_many

    def watch(*args, **options):
        drawn.extend(real(*args, **options))
        return drawn

    monkeypatch.setattr(module, "sample_many", watch)
    monkeypatch.setattr(module, "update", lambda optimizer: seen.append(gradient(tiny_model)))
    order = []
    encode = tiny_model.encode_prompt
    monkeypatch.setattr(tiny_model, "encode_prompt", lambda prompt: order.append(prompt) or encode(prompt))
    run = distil(UNCUED, tokens=1)
    tiny_model.module.zero_grad()
    total, count = torch.zeros(()), 0
    for prompt, [completion] in zip(order[: len(drawn)], drawn, strict=True):
        ids = encode(prompt)
        rows = torch.tensor([[*ids, *completion.tokens]])
        student, taught = (m.module(rows).logits[0, len(ids) - 1 : -1].log_softmax(-1) for m in (tiny_model, teacher))
        total, count = total + (student.exp() * (student - taught.detach())).sum(), count + len(completion.tokens)
    (total / count).backward()
    assert run.curve[0]["loss"] == pytest.approx((total / count).item(), rel=1e-4)
    assert torch.allclose(seen[0], gradient(tiny_model), rtol=1e-3, atol=1e-6)


def test_it_comes_closer_to_its_teacher(distil, tiny_model, teacher, mean_kl):
    before, weights = mean_kl(tiny_model, teacher), teacher.fingerprint()
    run = distil(UNCUED, tokens=12_000)
    assert run.curve[-1]["loss"] < 0.8 * run.curve[0]["loss"]
    assert mean_kl(tiny_model, teacher) < before  # on texts it never saw
    assert teacher.fingerprint() == weights
    assert all(p.grad is None for p in teacher.parameters())


def test_the_same_seed_gives_the_same_weights(distil, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        distil(UNCUED, tokens=1500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint() != make_model(seed=3).fingerprint()


def test_samples_are_paid_for_and_the_teacher_is_booked_beside(distil):
    ledger = distil(UNCUED, tokens=2000).ledger
    assert ledger.sampled_tokens > 0
    assert ledger.trained_tokens == ledger.prompt_tokens + ledger.sampled_tokens  # what was written is read once
    assert ledger.other_tokens == ledger.scored_tokens == ledger.trained_tokens
    assert ledger.own_tokens == 2 * ledger.trained_tokens


def test_only_the_teacher_sees_the_cue_and_no_rationale_is_needed(distil, tiny_model, teacher, toy_data, monkeypatch):
    asked = {"student": set(), "teacher": set()}
    for who, model in (("student", tiny_model), ("teacher", teacher)):
        real = model.encode_prompt
        monkeypatch.setattr(model, "encode_prompt", lambda p, who=who, real=real: asked[who].add(p) or real(p))
    bare = [dataclasses.replace(p, rationale=None) for p in toy_data.problems]
    distil(dataclasses.replace(UNCUED, cue="Think."), tokens=1, data=dataclasses.replace(toy_data, problems=bare))
    assert len(asked["student"]) == 12
    assert asked["teacher"] == {f"{prompt} Think." for prompt in asked["student"]}


def test_another_vocabulary_is_refused(distil, teacher):
    teacher.tokenizer.add_tokens(["<more>"])
    with pytest.raises(ValueError, match="vocabularies differ"):
        distil(UNCUED)


def test_without_its_teacher_it_says_which(tiny_model, toy_data):
    with pytest.raises(LookupError, match="'tiny-teacher'"):
        ReverseKLDistillation().train(tiny_model, toy_data, Run(0, budget=10))
