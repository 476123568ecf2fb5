import contextlib

import pytest
import torch

from benchmarks import limit

LAYER = 2 * (32 * 32 + 2 * 16 * 32 + 32 * 32 + 3 * 32 * 48)  # FLOPs a token: q, k and v of half the heads, o, and three


def test_the_rate_is_of_all_matrices_of_a_layer_for_all_rows(tiny_model, monkeypatch):
    monkeypatch.setattr(limit, "fastest", lambda device, work: work() or 2.0)
    assert limit.gemm_rate(tiny_model, 5) == 5 * LAYER / 2.0


def test_the_products_are_those_of_the_weights(tiny_model, monkeypatch):
    shapes = []
    monkeypatch.setattr(limit.F, "linear", lambda x, weight: shapes.append((*x.shape, *weight.shape)))
    monkeypatch.setattr(limit, "fast_products", contextlib.nullcontext)
    monkeypatch.setattr(limit, "fastest", lambda device, work: work() or 1.0)
    limit.gemm_rate(tiny_model, 7)
    assert (7, 32, 48, 32) in shapes
    assert (7, 48, 32, 48) in shapes
    assert len(shapes) == 7


@pytest.mark.parametrize(
    ("spent", "flops"), [({"trained": 10}, 60), ({"read": 10}, 20), ({"trained": 5, "read": 5}, 40)]
)
def test_six_flops_a_parameter_and_token_trained_two_read(tiny_model, spent, flops):
    parameters = sum(p.numel() for p in tiny_model.module.parameters())
    assert limit.matrix_seconds(tiny_model, 2.0, **spent) == flops * parameters / 2


def test_lora_needs_four(tiny_model):
    full, frozen = (limit.matrix_seconds(tiny_model, 1.0, trained=3, per_trained=n) for n in (6, 4))
    assert frozen / full == pytest.approx(4 / 6)


def test_decoding_on_another_device_reads_the_weights_once_a_step(tiny_model, monkeypatch):
    class Elsewhere:
        name = "cuda"

    monkeypatch.setattr(limit, "memory_rate", lambda device: 8.0)
    size = 4 * sum(p.numel() for p in tiny_model.module.parameters())
    tiny_model.device = Elsewhere()
    assert limit.decoding_seconds(tiny_model, tokens=1e9, steps=3, rows=64) == 3 * size / 8.0


def test_the_fastest_repeat_counts(tiny_model, monkeypatch):
    ticks = iter([0.0, 5.0, 5.0, 8.0, 8.0, 12.0])
    monkeypatch.setattr(limit, "clock_of", lambda device: lambda: next(ticks))
    monkeypatch.setattr(limit, "REPEATS", 3)
    assert limit.fastest(tiny_model.device, lambda: None) == 3.0


def test_a_short_work_is_repeated_until_the_clock_sees_it(tiny_model, monkeypatch):
    now = torch.zeros(())
    monkeypatch.setattr(limit, "clock_of", lambda device: lambda: float(now))
    assert limit.fastest(tiny_model.device, lambda: now.add_(0.001)) == pytest.approx(0.001, rel=1e-3)
