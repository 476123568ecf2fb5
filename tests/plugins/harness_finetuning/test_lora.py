"""LoRA: nothing at the start, the same merged and unmerged, PEFT's files, and only the layers it is meant to change."""

import dataclasses
import json
import math

import pytest
import torch
from safetensors.torch import load_file, save_file

from harness.builtin.causal_lm import CausalLM
from harness.toolbox import embedding_layer, linear_layers
from harness_finetuning.lora import LoRA, LowRank

METHOD = LoRA(r=4, lr=2e-2, batch_size=4)
IDS = torch.tensor([[1, 58, 76, 5, 13, 68, 11, 75, 4, 42, 76, 5, 7]])


@torch.no_grad()
def logits(module):
    return module(input_ids=IDS).logits


def filled(model, method=METHOD, seed=0):
    """The model with changes that are not nothing, without training."""
    method.put(model, method.start(model, seed), merge=False)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for change in model.adapter.changes.values():
            change.B.add_(0.2 * torch.randn(change.B.shape, generator=generator))
    return model


def test_by_hand():
    layer = torch.nn.Linear(2, 1, bias=False)
    torch.nn.init.constant_(layer.weight, 1.0)
    change = LowRank(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]), scale=0.5)
    layer.register_forward_hook(change.add)
    # W0 x = 1 + 10 = 11; A x = 1 + 20 = 21; B A x = 63; half of it is 31.5
    assert layer(torch.tensor([1.0, 10.0])).item() == pytest.approx(42.5)
    layer._forward_hooks.clear()
    change.merge(layer)
    assert layer.weight.tolist() == [[2.5, 4.0]]


def test_at_the_start_it_is_the_base_model_to_the_bit(any_model):
    before = logits(any_model.module)
    METHOD.put(any_model, METHOD.start(any_model, 0), merge=False)
    assert torch.equal(logits(any_model.module), before)
    for name, change in any_model.adapter.changes.items():
        assert not change.B.any()
        limit = 1 / math.sqrt(change.A.shape[1])  # Kaiming-uniform with a = sqrt(5)
        assert 0.5 * limit < float(change.A.detach().abs().max()) <= limit, name


def test_rank_stabilised_scale(tiny_model):
    plain, stable = (LoRA(r=16, alpha=8, rslora=flag).start(tiny_model, 0).parts[0].scale for flag in (False, True))
    assert (plain, stable) == (8 / 16, 8 / 4)


def test_every_linear_layer_but_the_output_layer_is_changed(any_model):
    METHOD.put(any_model, METHOD.start(any_model, 0), merge=False)
    layers = linear_layers(any_model)
    assert list(any_model.adapter.changes) == sorted(layers)
    assert len(layers) == 14
    head = any_model.module.lm_head
    assert not head._forward_hooks
    assert not embedding_layer(any_model)._forward_hooks
    expected = sum(4 * (layer.in_features + layer.out_features) for layer in layers.values())
    assert sum(p.numel() for p in any_model.adapter.parameters()) == expected


def test_only_the_layers_that_were_asked_for(tiny_model):
    adapter = LoRA(layers="q_proj,v_proj").start(tiny_model, 0)
    assert {name.rpartition(".")[2] for name in adapter.changes} == {"q_proj", "v_proj"}
    with pytest.raises(ValueError, match="no_proj"):
        LoRA(layers="no_proj").start(tiny_model, 0)


def test_merged_and_unmerged_are_the_same(train, any_model, tmp_path):
    train(METHOD, tokens=500, model=any_model)
    any_model.save(tmp_path)
    merged, beside = any_model.restore(tmp_path), any_model.restore(tmp_path)
    head = merged.module.lm_head.weight.clone()
    METHOD.attach(merged, tmp_path / "adapter")
    dataclasses.replace(METHOD, merge=False).attach(beside, tmp_path / "adapter")
    assert merged.adapter is None
    assert not any(layer._forward_hooks for layer in linear_layers(merged).values())
    assert torch.equal(merged.module.lm_head.weight, head), "the tied embeddings were changed"
    torch.testing.assert_close(logits(merged.module), logits(any_model.module), atol=1e-4, rtol=0)
    assert torch.equal(logits(beside.module), logits(any_model.module))
    assert not torch.allclose(logits(merged.module), logits(any_model.restore(tmp_path).module), atol=1e-2)


def test_a_merge_into_bfloat16_rounds_once():
    generator = torch.Generator().manual_seed(0)
    layer = torch.nn.Linear(64, 64, bias=False).bfloat16()
    A, B = (0.05 * torch.randn(shape, generator=generator) for shape in ((4, 64), (64, 4)))
    exact = layer.weight.detach().double() + 2.0 * (B.double() @ A.double())
    change = LowRank(A, B, 2.0)
    change.merge(layer)
    assert layer.weight.dtype == torch.bfloat16
    wrong = (layer.weight != exact.float().bfloat16()).float().mean()
    assert wrong < 0.001  # rounding the change before the sum gets 5 % of them wrong


def test_a_scale_is_read_from_the_file_and_not_from_the_method(tiny_model, tmp_path):
    filled(tiny_model, LoRA(r=2, alpha=6, rslora=True))
    tiny_model.save(tmp_path)
    again = tiny_model.restore(tmp_path)
    LoRA(r=8, alpha=1, merge=False).attach(again, tmp_path / "adapter")
    assert torch.equal(logits(again.module), logits(tiny_model.module))
    assert again.fingerprint() == tiny_model.fingerprint()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rslora", [False, True])
def test_peft_reads_what_we_write(any_model, tmp_path, rslora):
    peft = pytest.importorskip("peft")
    model = filled(any_model, LoRA(r=4, alpha=6, rslora=rslora))
    model.save(tmp_path)
    base = CausalLM.load(tmp_path, model.device).module
    theirs = peft.PeftModel.from_pretrained(base, str(tmp_path / "adapter"))
    torch.testing.assert_close(logits(theirs), logits(model.module), atol=1e-4, rtol=0)
    assert sum(name.endswith("lora_A.default") for name, _ in theirs.named_modules()) == 14


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("rslora", [False, True])
def test_we_read_what_peft_writes(any_model, tmp_path, rslora):
    peft = pytest.importorskip("peft")
    ours = any_model.clone()
    config = peft.LoraConfig(task_type="CAUSAL_LM", target_modules="all-linear", r=4, lora_alpha=6, use_rslora=rslora)
    theirs = peft.get_peft_model(any_model.module, config).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in theirs.named_parameters():
            if "lora_B" in name:
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    theirs.save_pretrained(tmp_path)
    merged = ours.clone()
    LoRA(merge=False).attach(ours, tmp_path)
    LoRA(merge=True).attach(merged, tmp_path)
    for model in (ours, merged):
        torch.testing.assert_close(logits(model.module), logits(theirs), atol=1e-4, rtol=0)


@pytest.mark.parametrize("change", ["alpha_pattern", "magnitude", "half"])
def test_more_than_a_lora_is_refused(tiny_model, tmp_path, change):
    filled(tiny_model).adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    if change == "alpha_pattern":
        config["alpha_pattern"] = {"q_proj": 3}
    elif change == "magnitude":
        tensors["base_model.model.model.layers.0.mlp.up_proj.lora_magnitude_vector.weight"] = torch.ones(48)
    else:
        del tensors["base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"]
    (tmp_path / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(tensors, tmp_path / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="more than A and B"):
        METHOD.attach(tiny_model.clone(), tmp_path)
