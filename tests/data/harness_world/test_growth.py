"""Growth: a deeper model that computes the same at first, and of which every part can learn."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from harness_world.growth import grown

IDS = torch.tensor([[1, 5, 9, 3, 7], [1, 2, 2, 8, 4]])


@pytest.fixture
def small():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=11,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=24,
        tie_word_embeddings=True,
        initializer_range=0.3,
    )
    return LlamaForCausalLM(config).eval()


@pytest.mark.parametrize("layers", [2, 4, 6])
def test_it_computes_what_the_small_one_does(small, layers):
    large = grown(small, layers)
    assert large.config.num_hidden_layers == len(large.model.layers) == layers
    assert torch.equal(large(IDS).logits, small(IDS).logits)
    assert large.lm_head.weight is large.model.embed_tokens.weight


def test_with_a_cache_too(small):
    large = grown(small, 4)
    said = [model.generate(IDS, max_new_tokens=6, do_sample=False, pad_token_id=0) for model in (small, large)]
    assert torch.equal(*said)


def test_the_new_layers_learn_and_the_small_model_is_left_alone(small):
    large, before = grown(small, 4), small(IDS).logits
    optimizer = torch.optim.SGD(large.parameters(), lr=0.1)
    for _ in range(2):  # what stands before a zero matrix gets its first gradient in the second step
        optimizer.zero_grad()
        large(IDS, labels=IDS).loss.backward()
        optimizer.step()
    assert all(parameter.grad.abs().sum() > 0 for parameter in large.parameters())
    assert torch.equal(small(IDS).logits, before)


def test_layers_that_cannot_be_spread_evenly_are_refused(small):
    with pytest.raises(ValueError, match="3 layers cannot be made of 2"):
        grown(small, 3)
