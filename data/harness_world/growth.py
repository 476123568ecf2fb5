"""A deeper model that begins as the smaller one: blocks are added that change nothing at first.

Wu et al. 2024 (LLaMA Pro), arXiv 2401.02415, section 3.2: a new block is a copy of the block before it
with the last matrices of its attention and of its feed-forward at zero. What the small model has
learnt is kept, and the larger one need not learn it again.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import nn
from transformers import LlamaForCausalLM


def grown(small: LlamaForCausalLM, layers: int) -> LlamaForCausalLM:
    """A model of `layers` layers that computes what `small` does: as many new blocks behind each of its own.

    Raises:
        ValueError: `layers` is no multiple of the layers that `small` has.
    """
    have = small.config.num_hidden_layers
    if layers % have:
        msg = f"{layers} layers cannot be made of {have} with equally many behind each"
        raise ValueError(msg)
    config = deepcopy(small.config)
    config.num_hidden_layers = layers
    config.layer_types = None
    large = LlamaForCausalLM(config)
    blocks = [deepcopy(block) for block in small.model.layers for _ in range(layers // have)]
    with torch.no_grad():
        for index, block in enumerate(blocks):
            block.self_attn.layer_idx = index
            if index % (layers // have):
                block.self_attn.o_proj.weight.zero_()
                block.mlp.down_proj.weight.zero_()
    large.model.layers = nn.ModuleList(blocks)
    large.model.embed_tokens = deepcopy(small.model.embed_tokens)
    large.model.norm = deepcopy(small.model.norm)
    large.tie_weights()
    return large
