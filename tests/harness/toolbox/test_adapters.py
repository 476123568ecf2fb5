"""What adapters share: what is found and frozen, virtual tokens, files."""

import json

import pytest
import torch
from safetensors.torch import save_file

from harness import Problem
from harness.toolbox import (
    VirtualTokens,
    collate,
    embedding_layer,
    first_tokens,
    freeze,
    linear_layers,
    read_adapter,
    write_adapter,
)

EVERY = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def test_the_output_layer_is_never_among_the_linear_layers(any_model):
    """Where it is tied (llama here) and where it is not (qwen2, mistral)."""
    layers = linear_layers(any_model)
    assert {name.rpartition(".")[2] for name in layers} == EVERY
    assert len(layers) == 2 * len(EVERY)
    weights = {layer.weight.data_ptr() for layer in layers.values()}
    assert embedding_layer(any_model).weight.data_ptr() not in weights
    with pytest.raises(ValueError, match="lm_head"):
        linear_layers(any_model, ["lm_head"])


def test_layers_are_found_by_full_name_or_by_its_end_and_only_whole_parts_count(tiny_model):
    assert list(linear_layers(tiny_model, ["v_proj"])) == [f"model.layers.{i}.self_attn.v_proj" for i in (0, 1)]
    assert list(linear_layers(tiny_model, ["model.layers.1.mlp.up_proj"])) == ["model.layers.1.mlp.up_proj"]
    with pytest.raises(ValueError, match="named proj"):
        linear_layers(tiny_model, ["q_proj", "proj"])


def test_frozen_means_every_weight_the_heads_included_and_only_without_an_adapter(tiny_model):
    tiny_model.heads["reward"] = torch.nn.Linear(32, 1)
    freeze(tiny_model)
    assert not any(p.requires_grad for p in tiny_model.parameters())
    tiny_model.adapter = object()
    with pytest.raises(ValueError, match="adapter already"):
        freeze(tiny_model)


def test_first_tokens_run_over_prompts_and_round_again(tiny_model):
    problems = [Problem("a", "1+1?", "2"), Problem("b", "2", "2")]
    one, two = (tiny_model.encode_prompt(p.prompt) for p in problems)
    assert first_tokens(tiny_model, problems, 3, 0) == one[:3]
    assert first_tokens(tiny_model, problems, 20, 0) == [*one, *two, *one][:20]
    assert first_tokens(tiny_model, problems, 20, 1) == [*two, *one, *two][:20]
    with pytest.raises(ValueError, match="nothing to train on"):
        first_tokens(tiny_model, [], 3, 0)


@pytest.mark.parametrize("shape", [(7,), (1, 7), (7, 1)])
def test_virtual_tokens_are_filled_wherever_they_stand(tiny_model, shape):
    embedding = embedding_layer(tiny_model)
    words = embedding.weight[:10].detach().clone()
    places, learnt = VirtualTokens(embedding), torch.arange(64.0).view(2, 32)
    V = embedding.num_embeddings
    ids = torch.tensor([0, 0, V, V + 1, 3, 9, V + 1]).view(shape)
    filled = places.fill(embedding(ids), learnt)
    expected = torch.stack([words[0], words[0], learnt[0], learnt[1], words[3], words[9], learnt[1]])
    assert torch.equal(filled, expected.view(*shape, 32))
    real = torch.tensor([3, 4])  # nothing of the pass before is left
    assert torch.equal(places.fill(embedding(real), learnt), words[real])


def test_a_long_prompt_keeps_its_virtual_tokens(tiny_model):
    """Cut from the left as others are, they would be the first to go."""
    tiny_model.adapter = type("A", (), {"virtual_tokens": 3})()
    prompt = tiny_model.encode_prompt("9" * 200)
    row = collate(tiny_model, [(prompt, [7, 8, 2])]).input_ids[0].tolist()
    assert row[:4] == prompt[:4]
    assert row[4:] == [*prompt[-(tiny_model.context - 4 - 3) :], 7, 8, 2]
    assert len(row) == tiny_model.context
    room = tiny_model.context - len(prompt[:4])
    assert collate(tiny_model, [(prompt, [7] * room)]).dropped == 1
    assert collate(tiny_model, [(prompt, [7] * (room - 1))]).shortened == 1


def test_files_come_back_and_broken_ones_are_named(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.randn(4).bfloat16()}
    write_adapter(tmp_path / "x", {"peft_type": "LORA", "r": 2}, {**tensors, "c": torch.eye(3).T})
    config, again = read_adapter(tmp_path / "x", "LORA")
    assert config["r"] == 2
    assert all(
        torch.equal(again[name], tensor) and again[name].dtype == tensor.dtype for name, tensor in tensors.items()
    )
    with pytest.raises(ValueError, match="of type LORA, not HOULSBY"):
        read_adapter(tmp_path / "x", "HOULSBY")
    with pytest.raises(ValueError, match="no adapter"):
        read_adapter(tmp_path / "absent", "LORA")
    (tmp_path / "x" / "adapter_model.safetensors").write_bytes(b"12345678")
    with pytest.raises(ValueError, match="no adapter"):
        read_adapter(tmp_path / "x", "LORA")
    (tmp_path / "y").mkdir()
    (tmp_path / "y" / "adapter_config.json").write_text(json.dumps([1]), encoding="utf-8")
    save_file(tensors, tmp_path / "y" / "adapter_model.safetensors")
    with pytest.raises(ValueError, match="no adapter"):
        read_adapter(tmp_path / "y", "LORA")
