"""Rollouts: completions that the policy draws while it learns, with their rewards, and the step that learns from them.

The policy samples at temperature 1, without truncation, so that log-probabilities of the training pass are those of the
sampler's distribution; the sampler's own are never used.
Shapes: B problems, n completions each, R = B n rows, problem after problem; T tokens.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from harness.contracts import Completion, Model, Problem, TrainingData
from harness.meter import Run
from harness.toolbox.batching import Sequences, collate, length_groups
from harness.toolbox.logprobs import token_logprobs
from harness.toolbox.sampling import sample_many
from harness.toolbox.training import accumulate

T = TypeVar("T")
Reward = Callable[[Problem, Completion], float]
DRIFT_EVERY = 4
"""Steps between two measurements of how far a policy is from its start."""
KL_BOUND = 1.0
"""Nats a token from its start beyond which a policy has run away. What learns stays below a quarter of that."""


def verified(data: TrainingData) -> Reward:
    """The dataset's verifier as a reward: 1 for a right answer, 0 for a wrong one or none."""
    return lambda problem, completion: float(data.verify(problem, completion.text)[0])


def coin(run: Run) -> Reward:
    """A reward that knows nothing: 0 or 1 at equal odds, the control of every method that learns from rewards."""
    toss = random.Random(run.seed("coin"))  # noqa: S311 - a control, not a secret
    return lambda problem, completion: float(toss.getrandbits(1))  # noqa: ARG005 - that is its point


def random_reward_twin(method: type[T], decides: str = "reward") -> type[T]:
    """The control of a method that learns from rewards: the same class, but a coin says what a completion is worth.

    decides: the name of the method that returns its `Reward`, given the data and the run.
    """

    def toss(self: object, data: TrainingData, run: Run) -> Reward:
        del self, data
        return coin(run)

    told = {
        "__module__": method.__module__,
        "__doc__": "The control: whatever it gains, no judgement of the completions gave.",
        "name": f"{method.name}-random-reward",  # type: ignore[attr-defined]
        "family": "control",
        decides: toss,
    }
    return dataclass(frozen=True)(type(f"{method.__name__}RandomReward", (method,), told))


@dataclass(frozen=True)
class Rollouts:
    """n completions of each of B problems, and what they are worth."""

    problems: Sequence[Problem]
    completions: Sequence[Completion]
    """R, problem after problem."""
    sequences: Sequences
    rewards: torch.Tensor
    """(R,) float."""
    n: int

    @property
    def lengths(self) -> torch.Tensor:
        """(R,) float: tokens of each completion, its `eos` included; 0 where it did not fit the context."""
        return self.sequences.completion_mask.sum(-1).float()

    def by_problem(self, values_R: torch.Tensor) -> torch.Tensor:
        """(R,) to (B, n)."""
        return values_R.view(-1, self.n)

    def facts(self) -> dict[str, float]:
        """What every curve shows: mean reward, length in tokens, share of rows cut off at the limit."""
        cut = sum(c.finish == "length" for c in self.completions) / len(self.completions)
        return {"reward": float(self.rewards.mean()), "length": float(self.lengths.mean()), "cut": cut}


def contrasts(rollouts: Rollouts, most: int) -> list[tuple[int, int]]:
    """(right, wrong): rows of completions of the same problem, at most so many pairs a problem, no completion twice.

    Right is what has a reward above 0. Within a problem nothing can be learnt from how hard it is.
    """
    right_R, found = (rollouts.rewards > 0).tolist(), list[tuple[int, int]]()
    for first in range(0, len(right_R), rollouts.n):
        rows = {c.tokens: first + k for k, c in enumerate(rollouts.completions[first : first + rollouts.n]) if c.tokens}
        good, bad = ([row for row in rows.values() if right_R[row] is wanted] for wanted in (True, False))
        found += list(zip(good, bad, strict=False))[:most]
    return found


def roll_out(model: Model, problems: Sequence[Problem], run: Run, n: int, reward: Reward) -> Rollouts:
    """Draw `n` completions of each problem at temperature 1 and reward each.

    Raises:
        BudgetSpentError: nothing is left to spend.
        ValueError: a reward is not finite; the message names the problem.
    """
    drawn = sample_many(model, [p.prompt for p in problems], run, ids=[p.id for p in problems], n=n)
    pairs = [(problem, completion) for problem, of_one in zip(problems, drawn, strict=True) for completion in of_one]
    rewards = [_finite(reward(problem, completion), problem) for problem, completion in pairs]
    prompts = {problem.id: model.encode_prompt(problem.prompt) for problem in problems}
    sequences = collate(model, [(prompts[problem.id], completion.tokens) for problem, completion in pairs])
    drawn_in_order = [completion for _, completion in pairs]
    return Rollouts(problems, drawn_in_order, sequences, torch.tensor(rewards, device=sequences.index.device), n)


def _finite(value: float, problem: Problem) -> float:
    if not math.isfinite(value):
        msg = f"the reward of a completion of problem {problem.id} is {value}"
        raise ValueError(msg)
    return value


def clipped_surrogate(
    logprob_RT: torch.Tensor, old_RT: torch.Tensor, advantage_RT: torch.Tensor, low: float, high: float
) -> torch.Tensor:
    """(R, T) min(rho A, clip(rho, 1 - low, 1 + high) A), to be maximised; rho = pi / pi_old, token by token.

    Schulman et al. 2017, arXiv:1707.06347, eq. (7). `advantage_RT` may be (R, 1): the same for all tokens of a row.
    """
    ratio_RT = (logprob_RT - old_RT).exp()
    return torch.min(ratio_RT * advantage_RT, ratio_RT.clamp(1 - low, 1 + high) * advantage_RT)


def old_logprobs(model: Model, sequences: Sequences) -> torch.Tensor:
    """(R, T) log-probabilities of the policy that drew the rows, by the training pass: what later ratios divide by."""
    parts, old_RT = (
        length_groups(sequences),
        torch.zeros(sequences.completion_mask.shape, device=sequences.index.device),
    )
    with torch.no_grad():
        for part in parts:
            old_RT[_places(sequences, part), : part.input_ids.shape[1]] = token_logprobs(model, part)
    return old_RT


def policy_gradient(
    model: Model,
    sequences: Sequences,
    advantage_RT: torch.Tensor,
    weight_R: torch.Tensor,
    *,
    old_RT: torch.Tensor | None = None,
    clip: tuple[float, float] = (0.2, 0.2),
) -> dict[str, float]:
    """Add the gradient of - sum_i w_i sum_t clipped_surrogate_it.

    advantage_RT: (R, T), or (R, 1) for the same on all tokens. Rows without any have no gradient and are not read.
    old_RT: None where the policy has just drawn the rows: rho = pi / sg(pi) is 1, and its gradient that of log pi.
    clip: how far below and above 1 the ratio may pay.

    Returns `entropy`, the mean of - log pi over the tokens read, in nats, and `clipped`, the share of them whose ratio
    is outside the clip. Nothing is returned, and nothing learnt, where no row has an advantage.

    Raises:
        DivergedError: a loss is not finite.
    """
    [kept] = (advantage_RT != 0).any(-1).nonzero(as_tuple=True)
    if not len(kept):
        return {}
    rows, low, high = sequences.select(kept), *clip
    surprise, outside = 0.0, 0.0

    def loss_sum(group: Sequences) -> torch.Tensor:
        nonlocal surprise, outside
        places, width = _places(sequences, group), group.input_ids.shape[1]
        logprob_RT = token_logprobs(model, group)
        before_RT = logprob_RT.detach() if old_RT is None else old_RT[places, :width]
        gain_RT = clipped_surrogate(logprob_RT, before_RT, advantage_RT[places, :width], low, high)
        surprise -= float(logprob_RT.detach().sum())
        ratio_RT = (logprob_RT.detach() - before_RT).exp()
        outside += float(((ratio_RT < 1 - low) | (ratio_RT > 1 + high)).sum())
        return -(weight_R[places, None] * gain_RT * group.completion_mask).sum()

    accumulate(rows, loss_sum, 1.0)
    return {"entropy": surprise / max(1, rows.tokens), "clipped": outside / max(1, rows.tokens)}


def kl_estimate(policy_RT: torch.Tensor, reference_RT: torch.Tensor) -> torch.Tensor:
    """(R, T) k3 = exp(-d) - 1 + d with d = log pi - log pi_ref of the policy's own tokens: never below 0.

    An unbiased estimate of KL(pi || pi_ref) in nats (Schulman 2020, "Approximating KL divergence"). d is held to
    +-20, beyond which exp overflows.
    """
    distance_RT = (policy_RT - reference_RT).clamp(-20, 20)
    return (-distance_RT).exp() - 1 + distance_RT


def hold(run: Run, kl: float) -> None:
    """End training where the policy has run away: its `kl` to the start, in nats a token, is above `KL_BOUND`."""
    if kl > KL_BOUND:
        run.stop(f"the KL to the start was {kl:.2f} nats a token, above {KL_BOUND:g}")


@torch.no_grad()
def drift(model: Model, reference: Model, rollouts: Rollouts, step: int, run: Run) -> dict[str, float]:
    """`kl`, KL(pi || pi_ref) in nats a token, estimated on the completions of the first problem; both models read them.

    As reading costs tokens, it is measured in every `DRIFT_EVERY`-th step alone; in others there is no such fact. Where
    it has run away, training is ended: see `hold`.
    """
    if step % DRIFT_EVERY:
        return {}
    rows = rollouts.sequences.select(torch.arange(rollouts.n, device=rollouts.rewards.device))
    kl_RT = kl_estimate(token_logprobs(model, rows), token_logprobs(reference, rows))
    kl = float(kl_RT.sum()) / max(1, rows.tokens)
    hold(run, kl)
    return {"kl": kl}


def _places(sequences: Sequences, part: Sequences) -> torch.Tensor:
    """Where the rows of `part` stand in `sequences`, whose rows are in the order of their index."""
    return torch.searchsorted(sequences.index, part.index)
