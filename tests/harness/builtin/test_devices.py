"""Devices: the accelerators' paths run here against stand-ins, lest their owners meet the first typing error."""

import subprocess
import sys

import pytest
import torch

from harness.builtin import devices
from harness.builtin.devices import SMALL_MODEL, Cpu, Cuda, Mps, arithmetic_for, harness_devices, self_check
from harness.contracts import ModelSize


class Calls:
    """Stands in for torch functions and notes which were called."""

    def __init__(self, monkeypatch):
        self.names, self.monkeypatch = [], monkeypatch

    def replace(self, owner, **results):
        for name, result in results.items():

            def stand_in(*args, _name=name, _result=result, **kwargs):
                self.names.append(_name)
                return _result

            self.monkeypatch.setattr(owner, name, stand_in)


class Placed(torch.nn.Module):
    """A module that notes where it was sent."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def to(self, *args, **kwargs):
        self.sent.append(kwargs)
        return self


def use(device):
    device.synchronize()
    device.reset_peak_memory()
    device.seed(7)
    return device.peak_memory_bytes(), device.describe()


def test_cpu():
    peak, facts = use(Cpu())
    assert Cpu().available()
    assert Cpu().dtype() == torch.float32
    assert 50e6 < peak < 1e12, "bytes, not kibibytes"
    assert facts["device"] == "cpu"
    assert facts["dtype"] == "float32"
    assert facts["threads"] == torch.get_num_threads()
    assert facts["processor"]
    Cpu().seed(7)
    again = torch.rand(3)
    Cpu().seed(7)
    assert torch.equal(torch.rand(3), again)
    assert not torch.equal(torch.rand(3), again)


def test_cuda_with_a_stand_in(monkeypatch):
    calls = Calls(monkeypatch)
    calls.replace(
        torch.cuda,
        is_available=True,
        is_bf16_supported=True,
        synchronize=None,
        reset_peak_memory_stats=None,
        max_memory_allocated=123,
        manual_seed_all=None,
        get_device_name="Card",
    )
    peak, facts = use(Cuda())
    assert (peak, facts["accelerator"], facts["dtype"]) == (123, "Card", "bfloat16")
    assert {"synchronize", "reset_peak_memory_stats", "manual_seed_all"} <= {*calls.names}
    assert Cuda().available()
    module = Placed()
    Cuda().place(module)
    assert module.sent == [{"device": "cuda", "dtype": torch.bfloat16}]
    calls.replace(torch.cuda, is_bf16_supported=False)
    assert Cuda().dtype() == torch.float32


def test_mps_with_a_stand_in(monkeypatch):
    calls = Calls(monkeypatch)
    calls.replace(torch.backends.mps, is_available=True)
    calls.replace(torch.mps, synchronize=None, empty_cache=None, driver_allocated_memory=456, manual_seed=None)
    peak, facts = use(Mps())
    assert (peak, facts["dtype"]) == (456, "float32")
    assert {"synchronize", "empty_cache", "manual_seed"} <= {*calls.names}
    assert Mps().available()
    module = Placed()
    Mps().place(module)
    assert module.sent == [{"dtype": torch.float32}, {"device": "mps"}], "the type changes before the move"


@pytest.mark.parametrize(("system", "factor"), [("linux", 1024), ("darwin", 1)])
def test_units_of_the_peak(monkeypatch, system, factor):
    import resource

    class Usage:
        ru_maxrss = 1000

    monkeypatch.setattr(resource, "getrusage", lambda who: Usage)
    monkeypatch.setattr(sys, "platform", system)
    assert devices.process_peak_bytes() == 1000 * factor


def test_auto_tries_accelerators_first():
    specs = harness_devices()
    assert [s.name for s in specs] == ["cuda", "mps", "cpu"]
    assert [s.make().name for s in specs] == ["cuda", "mps", "cpu"]


def test_self_check(tiny_model, monkeypatch):
    assert self_check(Cpu(), tiny_model) < 1e-6
    forward = tiny_model.module.forward
    broken = [0.01, float("nan")]
    for offset in broken:
        calls = iter([offset, 0.0])

        def wrong(*args, _calls=calls, **kwargs):
            out = forward(*args, **kwargs)
            out.logits = out.logits * (1 + next(_calls))
            return out

        monkeypatch.setattr(tiny_model.module, "forward", wrong)
        monkeypatch.setattr("copy.deepcopy", lambda module: module)
        with pytest.raises(RuntimeError, match="differ"):
            self_check(Cpu(), tiny_model)


def test_self_check_is_not_booked(tiny_model):
    from harness.meter import Run

    run = Run(0)
    run.watch(tiny_model)
    self_check(Cpu(), tiny_model)
    assert run.spent == 0


def test_listing_devices_imports_no_torch():
    code = "import sys, harness.builtin.devices as d; d.harness_devices(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def tiny_times_one():
    return float((torch.tensor([1e-39]) * torch.ones(1))[0])


def test_small_models_have_one_thread_and_nobody_has_denormal_numbers():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        for parameters, threads in ((SMALL_MODEL - 1, 1), (SMALL_MODEL, 2)):
            with arithmetic_for(ModelSize(parameters, 1, 1)):
                assert torch.get_num_threads() == threads
                assert tiny_times_one() == 0
            assert torch.get_num_threads() == 2
            assert tiny_times_one() > 0
    finally:
        torch.set_num_threads(before)
