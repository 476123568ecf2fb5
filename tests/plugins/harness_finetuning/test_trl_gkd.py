"""TRL's generalised JSD is ours: same figure on the same logits, for every beta, temperature aside."""

import importlib
import warnings

import pytest
import torch

from harness_finetuning.distillation import forward_kl
from harness_finetuning.gkd import generalised_jsd
from harness_finetuning.reverse_kl import reverse_kl

STUDENT, TEACHER = torch.randn(2, 3, 7, 11, generator=torch.Generator().manual_seed(0)).mul(2).unbind()
LABELS = torch.tensor([[-100, 4, 5, 6, 1, 2, -100], [-100, -100, 3, 3, 2, -100, -100], [1, 1, 1, 1, 1, 1, 2]])


@pytest.fixture(scope="module")
def theirs():
    pytest.importorskip("trl")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of what TRL imports, not of ours
        trainer = importlib.import_module("trl.experimental.gkd").GKDTrainer
    return trainer.generalized_jsd_loss


def mean(figures_BT):
    """Over the tokens that have a label, of all rows at once."""
    return figures_BT[LABELS != -100].mean().item()


@pytest.mark.parametrize("beta", [0.0, 0.1, 0.5, 0.9, 1.0])
def test_the_same_figure_for_every_beta(theirs, beta):
    found = mean(generalised_jsd(STUDENT, TEACHER, beta))
    assert found == pytest.approx(theirs(STUDENT, TEACHER, LABELS, beta=beta).item(), rel=1e-5)


@pytest.mark.parametrize("beta", [0.0, 0.3, 1.0])
def test_the_same_gradient(theirs, beta):
    gradients = []
    for loss in (
        lambda s: generalised_jsd(s, TEACHER, beta)[LABELS != -100].mean(),
        lambda s: theirs(s, TEACHER, LABELS, beta=beta),
    ):
        student = STUDENT.clone().requires_grad_()
        gradients += torch.autograd.grad(loss(student), student)
    assert torch.allclose(*gradients, rtol=1e-4, atol=1e-7)


def test_its_ends_are_our_two_kls(theirs):
    assert mean(forward_kl(STUDENT, TEACHER, 1.0)) == pytest.approx(
        theirs(STUDENT, TEACHER, LABELS, beta=0.0).item(), rel=1e-5
    )
    assert mean(reverse_kl(STUDENT, TEACHER)) == pytest.approx(
        theirs(STUDENT, TEACHER, LABELS, beta=1.0).item(), rel=1e-5
    )


@pytest.mark.parametrize("temperature", [0.5, 2.0, 4.0])
def test_theirs_lacks_t_squared(theirs, temperature):
    """The one difference: TRL softens by T and does not scale back. Ours over T^2 is theirs."""
    found = mean(forward_kl(STUDENT, TEACHER, temperature)) / temperature**2
    assert found == pytest.approx(theirs(STUDENT, TEACHER, LABELS, beta=0.0, temperature=temperature).item(), rel=1e-5)
