"""Adapters: the identity at the start, before the residual addition, and of the size that the paper gives."""

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness_finetuning.adapters import Adapters, Bottleneck, Bottlenecks

IDS = torch.tensor([[1, 58, 76, 5, 13, 68, 11, 75, 4, 42, 76, 5, 7]])


@torch.no_grad()
def logits(model):
    return model.module(input_ids=IDS).logits


def test_by_hand():
    part = Bottleneck(2, 1, torch.Generator())
    with torch.no_grad():
        part.W_down.copy_(torch.tensor([[1.0, 1.0]]))
        part.b_down.fill_(-1.0)
        part.W_up.copy_(torch.tensor([[2.0], [0.0]]))
        part.b_up.copy_(torch.tensor([0.0, 5.0]))
    h = torch.tensor([[1.0, 3.0]])
    # W_down h + b_down = 3; GELU(3) = 2.99595; h + (2 * 2.99595, 5)
    assert part.change(torch.nn.Identity(), (), h)[0].tolist() == pytest.approx([6.9919, 8.0], abs=1e-4)


def test_at_the_start_it_is_the_base_model_to_the_bit_and_can_learn(any_model):
    before = logits(any_model)
    any_model.adapter = Bottlenecks(any_model, 8)
    assert torch.equal(logits(any_model), before)
    any_model.module(input_ids=IDS).logits.square().sum().backward()
    assert all(bool(part.W_up.grad.any()) for part in any_model.adapter.parts)


def test_they_stand_behind_attention_and_mlp_before_the_residual_addition(tiny_model):
    """The states between the layers, worked out by hand from the parts of the model."""
    tiny_model.adapter = Bottlenecks(tiny_model, 8)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in tiny_model.adapter.parameters():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    assert tiny_model.adapter.names == tuple(
        f"model.layers.{i}.{part}" for i in (0, 1) for part in ("self_attn.o_proj", "mlp.down_proj")
    )
    first, behind = tiny_model.module.model.layers[0], tiny_model.adapter.parts
    seen = {}
    first.self_attn.o_proj.register_forward_pre_hook(lambda _, inputs: seen.update(attended=inputs[0]))
    with torch.no_grad():
        states = tiny_model.module(input_ids=IDS, output_hidden_states=True).hidden_states

        def adapted(h, part):
            return h + F.gelu(h @ part.W_down.T + part.b_down) @ part.W_up.T + part.b_up

        hidden = states[0] + adapted(seen["attended"] @ first.self_attn.o_proj.weight.T, behind[0])
        mlp, x = first.mlp, first.post_attention_layernorm(hidden)
        gated = F.silu(x @ mlp.gate_proj.weight.T) * (x @ mlp.up_proj.weight.T)
        hidden = hidden + adapted(gated @ mlp.down_proj.weight.T, behind[1])
    torch.testing.assert_close(states[1], hidden, atol=1e-5, rtol=1e-5)


def test_the_number_of_weights_is_the_papers(tiny_model):
    d, m, layers = 32, 8, 2
    adapter = Bottlenecks(tiny_model, m)
    assert sum(p.numel() for p in adapter.parameters()) == layers * 2 * (2 * m * d + d + m)


def test_layer_norms_stay_frozen(train, tiny_model):
    before = [p.clone() for name, p in tiny_model.module.named_parameters() if "norm" in name]
    train(Adapters(batch_size=4), tokens=300)
    after = [p for name, p in tiny_model.module.named_parameters() if "norm" in name]
    assert len(after) == 5
    assert all(torch.equal(a, b) and not b.requires_grad for a, b in zip(before, after, strict=True))


def test_its_files_do_not_pass_for_one_of_pefts(train, tiny_model, tmp_path):
    import json

    train(Adapters(batch_size=4), tokens=1)
    tiny_model.adapter.save(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == "HOULSBY"
    assert len(config["layers"]) == 4
    peft = pytest.importorskip("peft")
    assert config["peft_type"] not in set(peft.PeftType)
