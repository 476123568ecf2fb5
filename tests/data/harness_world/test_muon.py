import pytest
import torch

from harness_world.muon import SCALE, Muon, orthogonal


def test_singular_values_come_near_one_and_directions_stay():
    torch.manual_seed(0)
    matrices = torch.randn(3, 12, 30)
    found = orthogonal(matrices)
    assert found.shape == matrices.shape
    for before, after in zip(matrices, found, strict=True):
        u, _, v = torch.linalg.svd(before, full_matrices=False)
        inner = u.T @ after @ v.T
        values = inner.diagonal()
        assert ((values > 0.6) & (values < 1.3)).all()
        assert torch.allclose(inner, values.diag(), atol=1e-4)


def test_torch_s_own_muon_takes_about_the_same_step():
    """Theirs works in bfloat16 and scales by the same rule; directions agree as far as that type can tell."""
    torch.manual_seed(1)
    start, gradient = torch.randn(16, 24), torch.randn(16, 24)
    steps = []
    for make in (
        lambda p: Muon([p], lr=0.1, weight_decay=0.0),
        lambda p: torch.optim.Muon([p], lr=0.1, weight_decay=0.0, adjust_lr_fn="match_rms_adamw"),
    ):
        weight = torch.nn.Parameter(start.clone())
        weight.grad = gradient.clone()
        make(weight).step()
        steps.append((weight - start).flatten().detach())
    assert torch.cosine_similarity(*steps, dim=0) > 0.99
    assert steps[0].norm() == pytest.approx(float(steps[1].norm()), rel=0.05)


def test_the_update_has_the_size_of_adamw_s_whatever_the_shape():
    torch.manual_seed(2)
    for shape in ((16, 64), (64, 16), (32, 32)):
        weight = torch.nn.Parameter(torch.zeros(shape))
        weight.grad = torch.randn(shape) * 1e-3
        Muon([weight], lr=1.0, weight_decay=0.0).step()
        assert float(weight.detach().square().mean().sqrt()) == pytest.approx(SCALE, rel=0.25)


def test_shapes_are_updated_apart_and_decay_pulls_to_nothing():
    torch.manual_seed(3)
    starts = [torch.randn(8, 8), torch.randn(8, 8), torch.randn(4, 8), torch.randn(8, 4)]
    gradients = [torch.randn_like(start) for start in starts]

    def step(which):
        weights = [torch.nn.Parameter(starts[i].clone()) for i in which]
        for weight, i in zip(weights, which, strict=True):
            weight.grad = gradients[i]
        Muon(weights, lr=0.1, weight_decay=0.5).step()
        return [weight.detach() for weight in weights]

    together = step(range(4))
    for i in range(4):
        assert torch.allclose(together[i], step([i])[0], atol=1e-5)
    still = torch.nn.Parameter(torch.ones(4, 4))
    still.grad = torch.zeros(4, 4)
    Muon([still], lr=0.1, weight_decay=0.5).step()
    assert torch.allclose(still, torch.full((4, 4), 0.95))


def test_it_learns():
    torch.manual_seed(4)
    target, x = torch.randn(8, 8), torch.randn(64, 8)
    weight = torch.nn.Parameter(torch.zeros(8, 8))
    optimizer = Muon([weight], lr=0.1, weight_decay=0.0)
    losses = []
    for step in range(60):
        optimizer.param_groups[0]["lr"] = 0.4 * (1 - step / 60)  # a step has its size whatever the gradient's
        loss = (x @ (weight - target)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.05 * losses[0]
