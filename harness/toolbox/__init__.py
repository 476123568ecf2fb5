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
from harness.toolbox.asking import asked_to_fix
from harness.toolbox.batching import (
    Sequences,
    TokenPair,
    collate,
    collate_masked,
    encode_pairs,
    length_groups,
    whole_pairs,
)
from harness.toolbox.branches import ROOT, goes_on, grow, judge
from harness.toolbox.exchange import Exchange, Result
from harness.toolbox.fields import check_fields
from harness.toolbox.judges import Judge, compare_by_scores, compare_by_tokens
from harness.toolbox.logprobs import (
    completion_logits,
    completion_logprob,
    hidden_states,
    read_completions,
    token_logprobs,
)
from harness.toolbox.reward_heads import final_values, ranked_pairs, read_states, scalar_head
from harness.toolbox.rollouts import (
    Reward,
    Rollouts,
    clipped_surrogate,
    coin,
    contrasts,
    drift,
    hold,
    kl_estimate,
    old_logprobs,
    policy_gradient,
    random_reward_twin,
    roll_out,
    verified,
)
from harness.toolbox.sampling import SampleRequest, charge, draw, fetch, sample, sample_many
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
from harness.toolbox.voting import CHOICES, elect, vote

__all__ = [
    "CHOICES",
    "ROOT",
    "Exchange",
    "Judge",
    "Result",
    "Reward",
    "Rollouts",
    "SampleRequest",
    "Sequences",
    "TokenPair",
    "VirtualTokens",
    "accumulate",
    "adamw",
    "asked_to_fix",
    "charge",
    "check_fields",
    "clipped_surrogate",
    "coin",
    "collate",
    "collate_masked",
    "compare_by_scores",
    "compare_by_tokens",
    "completion_logits",
    "completion_logprob",
    "completion_loss",
    "contrasts",
    "cosine_with_warmup",
    "descend",
    "divergence_loss",
    "draw",
    "drift",
    "elect",
    "embedding_layer",
    "encode_pairs",
    "fetch",
    "final_answer",
    "final_values",
    "fine_tune",
    "first_tokens",
    "freeze",
    "frozen_copy",
    "goes_on",
    "grow",
    "hidden_states",
    "hold",
    "judge",
    "kl_estimate",
    "length_groups",
    "linear_layers",
    "old_logprobs",
    "open_teacher",
    "policy_gradient",
    "random_reward_twin",
    "ranked_pairs",
    "read_adapter",
    "read_completions",
    "read_states",
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
    "vote",
    "whole_pairs",
    "worked_examples",
    "worked_target",
    "write_adapter",
]
