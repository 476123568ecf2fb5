"""What has no idea in it: log-probabilities, batching, sampling, training steps, answers. For authors of methods."""

from harness.toolbox.adapters import (
    VirtualTokens,
    embedding_layer,
    first_tokens,
    freeze,
    linear_layers,
    read_adapter,
    write_adapter,
)
from harness.toolbox.batching import (
    Sequences,
    TokenPair,
    collate,
    collate_masked,
    encode_pairs,
    length_groups,
    whole_pairs,
)
from harness.toolbox.exchange import Exchange, Result
from harness.toolbox.logprobs import (
    completion_logits,
    completion_logprob,
    hidden_states,
    read_completions,
    token_logprobs,
)
from harness.toolbox.reward_heads import final_values, ranked_pairs, scalar_head
from harness.toolbox.rollouts import (
    Reward,
    Rollouts,
    clipped_surrogate,
    coin,
    drift,
    kl_estimate,
    old_logprobs,
    policy_gradient,
    roll_out,
    verified,
)
from harness.toolbox.sampling import SampleRequest, charge, draw, sample, sample_many
from harness.toolbox.steps import solution_ends, step_ends
from harness.toolbox.supervised import fine_tune, worked_examples, worked_target
from harness.toolbox.teaching import divergence_loss, open_teacher
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
    "Reward",
    "Rollouts",
    "SampleRequest",
    "Sequences",
    "TokenPair",
    "VirtualTokens",
    "accumulate",
    "adamw",
    "charge",
    "clipped_surrogate",
    "coin",
    "collate",
    "collate_masked",
    "completion_logits",
    "completion_logprob",
    "completion_loss",
    "cosine_with_warmup",
    "descend",
    "divergence_loss",
    "draw",
    "drift",
    "embedding_layer",
    "encode_pairs",
    "final_answer",
    "final_values",
    "fine_tune",
    "first_tokens",
    "freeze",
    "frozen_copy",
    "hidden_states",
    "kl_estimate",
    "length_groups",
    "linear_layers",
    "old_logprobs",
    "open_teacher",
    "policy_gradient",
    "ranked_pairs",
    "read_adapter",
    "read_completions",
    "roll_out",
    "sample",
    "sample_many",
    "scalar_head",
    "set_rate",
    "solution_ends",
    "step_ends",
    "token_logprobs",
    "update",
    "verified",
    "whole_pairs",
    "worked_examples",
    "worked_target",
    "write_adapter",
]
