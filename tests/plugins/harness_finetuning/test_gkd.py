"""GKD: eq. (1) by hand and at its limits; the mixture of data and samples; the teacher beside the budget."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness_finetuning import gkd
from harness_finetuning.gkd import GKD, generalised_jsd

UNCUED = GKD(cue="", lr=1e-2, batch_size=12)
FORWARD = 0.25 * math.log(0.5) + 0.75 * math.log(1.5)
REVERSE = 0.5 * math.log(4 / 3)


def logits(*probabilities):
    return torch.tensor([probabilities], dtype=torch.float64).log()


def figure(beta, student=(0.5, 0.5), teacher=(0.25, 0.75)):
    return generalised_jsd(logits(*student), logits(*teacher), beta).item()


def test_by_hand():
    """Student (1/2, 1/2), teacher (1/4, 3/4), beta 0.2: M = 0.2 teacher + 0.8 student = (0.45, 0.55)."""
    teacher_side = 0.25 * math.log(0.25 / 0.45) + 0.75 * math.log(0.75 / 0.55)
    student_side = 0.5 * math.log(0.5 / 0.45) + 0.5 * math.log(0.5 / 0.55)
    assert figure(0.2) == pytest.approx(0.2 * teacher_side + 0.8 * student_side, rel=1e-6)
    assert figure(0.2) != pytest.approx(figure(0.8), rel=0.01)


def test_its_ends_are_the_two_kls():
    assert figure(0.0) == pytest.approx(FORWARD, rel=1e-6)
    assert figure(1.0) == pytest.approx(REVERSE, rel=1e-6)


def test_towards_its_ends_it_is_beta_times_the_forward_and_one_minus_beta_times_the_reverse_kl():
    assert figure(1e-6) / 1e-6 == pytest.approx(FORWARD, rel=1e-4)
    assert figure(1 - 1e-6) / 1e-6 == pytest.approx(REVERSE, rel=1e-4)


def test_at_one_half_it_is_symmetric_and_below_ln_2():
    assert figure(0.5) == pytest.approx(figure(0.5, (0.25, 0.75), (0.5, 0.5)), rel=1e-6)
    assert figure(0.5, (1 - 1e-12, 1e-12), (1e-12, 1 - 1e-12)) == pytest.approx(math.log(2), rel=1e-6)


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_a_student_like_its_teacher_has_nothing_to_learn(beta):
    student = torch.randn(5, 9, generator=torch.Generator().manual_seed(0)).requires_grad_()
    loss = generalised_jsd(student, student.detach(), beta)
    (gradient,) = torch.autograd.grad(loss.sum(), student)
    assert torch.allclose(loss, torch.zeros(5), atol=1e-6)
    assert torch.allclose(gradient, torch.zeros(5, 9), atol=1e-6)


@pytest.mark.parametrize("name", ["beta", "student_share"])
def test_shares_are_from_0_to_1(name):
    with pytest.raises(ValueError, match=f"{name} must be from 0 to 1, not 1.5"):
        GKD(**{name: 1.5})


@pytest.mark.parametrize(("share", "sampled"), [(0.0, False), (1.0, True)])
def test_lambda_says_who_writes(distil, share, sampled):
    run = distil(dataclasses.replace(UNCUED, student_share=share), tokens=1500)
    assert (run.ledger.sampled_tokens > 0) == sampled
    assert {point["own"] for point in run.curve} == {share}


def test_half_and_half_is_a_mixture_in_an_order_of_the_seed(distil, make_model):
    orders = [
        [p["own"] for p in distil(dataclasses.replace(UNCUED, batch_size=2), 1200, model=make_model(seed=3)).curve]
        for _ in range(2)
    ]
    assert orders[0] == orders[1]
    assert 0.2 < sum(orders[0]) / len(orders[0]) < 0.8


def test_batches_of_the_data_are_its_rationales(distil, tiny_model, toy_data, monkeypatch):
    seen = []
    real = gkd.divergence_loss
    monkeypatch.setattr(gkd, "divergence_loss", lambda s, t, lessons, d: seen.extend(lessons) or real(s, t, lessons, d))
    distil(dataclasses.replace(UNCUED, cue="Think.", student_share=0.0, batch_size=12), tokens=1)
    assert sorted(seen) == sorted(
        (p.prompt, f"{p.prompt} Think.", tiny_model.encode_completion(toy_data.render_target(p, True)))
        for p in toy_data.problems
    )


def test_its_own_batches_are_drawn_by_the_student_as_it_is_now(distil, tiny_model, teacher, monkeypatch):
    writers = []
    real = gkd.sample_many

    def watch(model, *args, **options):
        writers.append((model is tiny_model, model.fingerprint()))
        return real(model, *args, **options)

    monkeypatch.setattr(gkd, "sample_many", watch)
    distil(dataclasses.replace(UNCUED, student_share=1.0), tokens=1500)
    assert all(own for own, _ in writers)
    assert len({weights for _, weights in writers}) == len(writers) > 2


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_a_twin_of_the_model_teaches_it_nothing(distil, tiny_model, monkeypatch, share):
    gradients = []
    monkeypatch.setattr(gkd, "update", lambda optimizer: gradients.append(norm(tiny_model)))
    run = distil(dataclasses.replace(UNCUED, student_share=share), tokens=300, teacher=tiny_model.clone())
    assert run.curve[0]["loss"] == pytest.approx(0, abs=1e-6)
    assert max(gradients) < 1e-5


def norm(model):
    return torch.cat([p.grad.flatten() for p in model.module.parameters()]).norm().item()


@pytest.mark.parametrize("beta", [0.0, 0.5, 1.0])
def test_it_comes_closer_to_its_teacher(distil, tiny_model, teacher, mean_kl, beta):
    before, weights = mean_kl(teacher, tiny_model), teacher.fingerprint()
    distil(dataclasses.replace(UNCUED, beta=beta), tokens=6000)
    assert mean_kl(teacher, tiny_model) < 0.75 * before
    assert teacher.fingerprint() == weights
    assert all(p.grad is None for p in teacher.parameters())


def test_the_same_seed_gives_the_same_weights(distil, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        distil(UNCUED, tokens=2500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint() != make_model(seed=3).fingerprint()


def test_samples_are_paid_for_and_the_teacher_is_booked_beside(distil):
    ledger = distil(dataclasses.replace(UNCUED, student_share=1.0), tokens=2000).ledger
    assert ledger.trained_tokens == ledger.prompt_tokens + ledger.sampled_tokens > 0
    assert ledger.other_tokens == ledger.scored_tokens == ledger.trained_tokens
    assert ledger.own_tokens == 2 * ledger.trained_tokens


def test_another_vocabulary_is_refused(distil, teacher):
    teacher.tokenizer.add_tokens(["<more>"])
    with pytest.raises(ValueError, match="vocabularies differ"):
        distil(UNCUED)


def test_without_its_teacher_it_says_which(tiny_model, toy_data):
    with pytest.raises(LookupError, match="'tiny-teacher'"):
        GKD().train(tiny_model, toy_data, Run(0, budget=10))
