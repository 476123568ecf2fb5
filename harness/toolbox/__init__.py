"""What has no idea in it: log-probabilities, batching, sampling, training steps, answers. For authors of methods."""

from harness.toolbox.batching import Sequences, TokenPair, collate, encode_pairs, length_groups
from harness.toolbox.exchange import Exchange, Result
from harness.toolbox.logprobs import completion_logprob, token_logprobs
from harness.toolbox.sampling import SampleRequest, charge, draw, sample, sample_many
from harness.toolbox.training import (
    accumulate,
    adamw,
    completion_loss,
    cosine_with_warmup,
    descend,
    frozen_copy,
    set_rate,
    update,
)
from harness.toolbox.verify import final_answer

__all__ = [
    "Exchange",
    "Result",
    "SampleRequest",
    "Sequences",
    "TokenPair",
    "accumulate",
    "adamw",
    "charge",
    "collate",
    "completion_logprob",
    "completion_loss",
    "cosine_with_warmup",
    "descend",
    "draw",
    "encode_pairs",
    "final_answer",
    "frozen_copy",
    "length_groups",
    "sample",
    "sample_many",
    "set_rate",
    "token_logprobs",
    "update",
]
