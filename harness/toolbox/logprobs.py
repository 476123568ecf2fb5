"""Log-probabilities of completions: shifted by one, in float32, prompt and padding left out, `eos` counted.

Shapes: R rows, T tokens, K labelled tokens, V words.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness.contracts import Model
from harness.toolbox.batching import Sequences, TokenPair, collate, length_groups
from harness.toolbox.reading import read


def completion_logits(model: Model, sequences: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """(K, V) logits that predict the completion tokens, row after row, and those tokens' (K,) ids.

    The forward pass goes through `model.module`, where the meter counts it.
    """
    mask_RT = sequences.completion_mask
    before_RT = mask_RT.roll(-1, 1)  # the first token of a row is never learnt, so none wraps around
    return read(model, sequences, before_RT, words=True), sequences.input_ids[mask_RT]


def hidden_states(model: Model, sequences: Sequences, chosen_RT: torch.Tensor) -> torch.Tensor:
    """(K, D) output of the last layer, normed as the words' head reads it, at the chosen tokens, row after row."""
    return read(model, sequences, chosen_RT, words=False)


def token_logprobs(model: Model, sequences: Sequences, temperature: float = 1.0) -> torch.Tensor:
    """(R, T) log-probabilities in nats: entry t is of token t given all before it; 0 outside `completion_mask`.

    `temperature` divides the logits: the sampler's, wherever the result is compared with what was sampled.

    Raises:
        ValueError: `temperature` is not above 0.
    """
    if temperature <= 0:
        msg = f"temperature must be above 0, not {temperature}"
        raise ValueError(msg)
    logits_KV, ids_K = completion_logits(model, sequences)
    logits_KV = logits_KV.float()
    if temperature != 1.0:
        logits_KV = logits_KV / temperature
    logprobs_K = -F.cross_entropy(logits_KV, ids_K, reduction="none")
    empty_RT = logits_KV.new_zeros(sequences.completion_mask.shape)
    return empty_RT.masked_scatter(sequences.completion_mask, logprobs_K)


def read_completions(model: Model, sequences: Sequences) -> tuple[torch.Tensor, torch.Tensor]:
    """(R, T, D) hidden states and (R, T) log-probabilities in nats, from one forward pass.

    Hidden states are those of `hidden_states`, in float32, from the last token of the prompt to that of the completion;
    log-probabilities are those of `token_logprobs`. Both are 0 elsewhere.
    """
    mask_RT = sequences.completion_mask
    seen_RT = mask_RT | mask_RT.roll(-1, 1)  # the first token of a row is never of a completion, so none wraps around
    hidden_SD = hidden_states(model, sequences, seen_RT)
    before_KD = hidden_SD[mask_RT.roll(-1, 1)[seen_RT]]
    logits_KV = model.module.get_output_embeddings()(before_KD).float()  # type: ignore[operator]
    logprob_K = -F.cross_entropy(logits_KV, sequences.input_ids[mask_RT], reduction="none")
    hidden_RTD = logprob_K.new_zeros((*mask_RT.shape, hidden_SD.shape[1]))
    logprob_RT = logprob_K.new_zeros(mask_RT.shape)
    return (
        hidden_RTD.masked_scatter(seen_RT[..., None], hidden_SD.float()),
        logprob_RT.masked_scatter(mask_RT, logprob_K),
    )


def completion_logprob(
    model: Model, batch: Sequences | Sequence[TokenPair], temperature: float = 1.0, groups: int | None = None
) -> torch.Tensor:
    """(R,) summed log-probabilities in nats, one a row of `batch`, in its order.

    The rows are run in `groups` groups of like length, which changes neither the figures nor their gradients.

    Raises:
        ValueError: `temperature` or `groups` is out of range, or there is no row.
    """
    sequences = batch if isinstance(batch, Sequences) else collate(model, batch)
    local = torch.arange(len(sequences), device=sequences.index.device)
    plain = Sequences(
        sequences.input_ids, sequences.attention_mask, sequences.completion_mask, sequences.position_ids, local
    )
    parts = length_groups(plain, groups)
    sums = torch.cat([token_logprobs(model, part, temperature).sum(-1) for part in parts])
    return sums[torch.cat([part.index for part in parts]).argsort()]
