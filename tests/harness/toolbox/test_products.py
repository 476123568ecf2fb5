"""Products by oneDNN: those of torch but for the last bits, with their gradients, and only where they are asked for."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from torch import nn

from harness.toolbox import products
from harness.toolbox.products import available, fast_products, fill, linear, plain, steady

needs_onednn = pytest.mark.skipif(not available(), reason="torch has no oneDNN here, or the processor no AVX-512")
CLOSE = {"rtol": 1e-5, "atol": 1e-4}  # sums of up to 800 products of normal numbers


@pytest.fixture
def through_onednn(monkeypatch):
    """Every product that fits, however small; the list says how many there were."""
    real, calls = products._product, []
    monkeypatch.setattr(products, "SMALLEST", 1)
    monkeypatch.setattr(products, "FEWEST_ROWS", 1)
    monkeypatch.setattr(products, "_product", lambda *args: calls.append(args) or real(*args))
    return calls


def layer_inputs(*shape, outputs, bias):
    generator = torch.Generator().manual_seed(0)
    x, weight = torch.randn(*shape, generator=generator), torch.randn(outputs, shape[-1], generator=generator)
    tensors = [x, weight, torch.randn(outputs, generator=generator) if bias else None]
    return [None if tensor is None else tensor.requires_grad_() for tensor in tensors]


@needs_onednn
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("shape", "outputs"), [((33, 24), 40), ((3, 50, 64), 24), ((800, 16), 16), ((1, 8), 8)])
def test_products_and_gradients_are_those_of_torch(through_onednn, shape, outputs, bias):
    inputs = layer_inputs(*shape, outputs=outputs, bias=bias)
    given = [tensor for tensor in inputs if tensor is not None]
    weights = torch.randn(*shape[:-1], outputs, generator=torch.Generator().manual_seed(1))
    expected = plain(*inputs)
    found = linear(*inputs)
    torch.testing.assert_close(found, expected, **CLOSE)
    by_torch = torch.autograd.grad((expected * weights).sum(), given)
    by_onednn = torch.autograd.grad((found * weights).sum(), given)
    for a, b in zip(by_onednn, by_torch, strict=True):
        assert (a.shape, a.stride()) == (b.shape, b.stride())
        torch.testing.assert_close(a, b, **CLOSE)
    assert len(through_onednn) == 3


@needs_onednn
@pytest.mark.parametrize("outputs", [9, 14])
def test_gradients_of_gradients_are_those_of_torch(through_onednn, outputs):
    def twice(product):
        x, weight, _ = layer_inputs(20, 12, outputs=outputs, bias=False)
        [slope] = torch.autograd.grad(product(x, weight).tanh().sum(), weight, create_graph=True)
        return torch.autograd.grad(slope.pow(2).sum(), (x, weight))

    for a, b in zip(twice(linear), twice(plain), strict=True):
        assert a.stride() == b.stride()
        torch.testing.assert_close(a, b, **CLOSE)
    assert len(through_onednn) > 3


@needs_onednn
@pytest.mark.parametrize("rows", [32, 411])
def test_a_gradient_that_is_spread_out_is_laid_out_first(through_onednn, rows):
    x, weight, _ = layer_inputs(rows, 16, outputs=24, bias=False)
    linear(x, weight).sum().backward()
    torch.testing.assert_close(weight.grad, x.sum(0).expand(24, 16), **CLOSE)
    assert all(part.is_contiguous() or part.t().is_contiguous() for args in through_onednn for part in args[:2])


@needs_onednn
def test_what_needs_no_gradient_gets_none(through_onednn):
    x, weight, bias = layer_inputs(30, 8, outputs=8, bias=True)
    linear(x.detach(), weight, bias.detach()).sum().backward()
    assert (x.grad, bias.grad) == (None, None)
    assert weight.grad is not None
    assert len(through_onednn) == 2


@pytest.mark.parametrize(
    "inputs",
    [
        (torch.ones(64, 8, dtype=torch.float64), torch.ones(8, 8, dtype=torch.float64)),
        (torch.ones(64, 8, dtype=torch.bfloat16), torch.ones(8, 8, dtype=torch.bfloat16)),
        (torch.ones(64, 8, device="meta"), torch.ones(8, 8, device="meta")),
        (torch.ones(0, 8), torch.ones(8, 8)),
    ],
    ids=["double", "half", "another device", "empty"],
)
def test_everything_else_is_left_to_torch(through_onednn, inputs):
    assert linear(*inputs).shape == (len(inputs[0]), 8)
    assert not through_onednn


def test_small_products_are_left_to_torch(monkeypatch):
    monkeypatch.setattr(products, "_product", None)
    assert linear(torch.ones(30, 8), torch.ones(8, 8)).shape == (30, 8)  # few multiplications
    assert linear(torch.ones(1, 2048), torch.ones(4096, 2048)).shape == (1, 4096)  # one row


def test_autocast_is_left_to_torch(through_onednn):
    with torch.autocast("cpu", torch.bfloat16):
        assert linear(torch.ones(64, 8), torch.ones(8, 8)).dtype is torch.bfloat16
    assert not through_onednn


@needs_onednn
def test_layers_are_reached_inside_alone(through_onednn):
    layer, x = nn.Linear(8, 8), torch.ones(40, 8)
    layer(x)
    assert not through_onednn
    with fast_products(), fast_products():
        layer(x)
    assert len(through_onednn) == 1
    with pytest.raises(KeyError), fast_products():
        raise KeyError
    assert F.linear is plain


def test_without_onednn_nothing_changes(monkeypatch):
    monkeypatch.setattr(products, "available", lambda: False)
    chosen = torch.arange(150) < 101
    with fast_products():
        assert F.linear is plain
        assert steady(101) == 101
        assert fill(chosen) is chosen


@needs_onednn
def test_numbers_of_rows_are_few_and_never_more_than_an_eighth_above():
    assert [steady(count) for count in (95, 96, 101, 1000)] == [95, 96, 101, 1000]  # outside
    with fast_products():
        counts = {count: steady(count) for count in range(1, 5000)}
    assert all(count <= found <= 1.125 * count for count, found in counts.items())
    assert all(found == count for count, found in counts.items() if count < 96)
    assert len({found for count, found in counts.items() if count >= 96}) < 60


@needs_onednn
def test_places_are_filled_up_with_such_as_are_allowed():
    chosen = (torch.arange(400) % 3 == 0).view(4, 100)
    allowed = (torch.arange(400) >= 200).view(4, 100)
    with fast_products():
        filled, narrow, full = fill(chosen), fill(chosen, allowed), fill(chosen, chosen)
    assert int(filled.sum()) == int(narrow.sum()) == 144
    assert bool((filled | ~chosen).all())
    assert bool((allowed | ~(narrow & ~chosen)).all())
    assert bool((full == chosen).all())  # there is nothing to fill up with
    assert int(chosen.sum()) == 134
