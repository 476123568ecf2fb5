"""Decoding through `module.generate`, for every architecture that has it: slower, and the same samples.

A logits processor makes the choice of `choice.Rows` and leaves `generate` no other token to take.
Shapes: R rows, T tokens so far, V words.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from harness.paying import uncounted
from harness.toolbox.choice import Rows
from harness.toolbox.queue import Queue


def _config(**settings: Any) -> GenerationConfig:
    return GenerationConfig(**settings)  # type: ignore[no-untyped-call]


class _Choose(LogitsProcessor):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, _ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        tokens_R = self.rows.choose(scores)
        forced = torch.full_like(scores, -torch.inf)
        return forced.scatter_(-1, tokens_R[:, None], 0.0)  # type: ignore[return-value]


class _Ended(StoppingCriteria):
    def __init__(self, rows: Rows) -> None:
        self.rows = rows

    def __call__(self, _ids: torch.LongTensor, _scores: torch.FloatTensor, **_: Any) -> torch.BoolTensor:
        return self.rows.done_A.clone()  # type: ignore[return-value]


@torch.no_grad()
def decode(module: Any, queue: Queue, pad: int) -> None:
    """Draw all rows of the queue to their ends, one batch after the other."""
    while (rows := queue.take()) is not None:
        _decode(module, rows, pad)


def _decode(module: Any, rows: Rows, pad: int) -> None:
    """A prompt is encoded once a row here, with padding on its left."""
    device = rows.active_A.device
    mine = [row.prompt_ids for row in rows.rows]
    width = max(map(len, mine))
    ids = torch.tensor([[*[pad] * (width - len(prompt)), *prompt] for prompt in mine], device=device)
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in mine], device=device)
    limit = max(row.limit for row in rows.rows)
    # The model's own defaults (a repetition penalty, say) would change the distribution that is sampled from.
    defaults, module.generation_config = module.generation_config, _config()
    try:
        with uncounted():
            module.generate(
                input_ids=ids,
                attention_mask=mask,
                generation_config=_config(do_sample=False, max_new_tokens=limit, pad_token_id=pad),
                logits_processor=LogitsProcessorList([_Choose(rows)]),
                stopping_criteria=StoppingCriteriaList([_Ended(rows)]),
            )
    finally:
        module.generation_config = defaults


def supports(module: nn.Module) -> bool:
    """Whether `module` can generate at all."""
    return callable(getattr(module, "generate", None))
