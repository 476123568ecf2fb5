"""The R1 pipeline: cold start, reasoning RL, fine-tuning on its right samples, RL for preferences, and distillation.

Paper: DeepSeek-AI 2025 (DeepSeek-R1), arXiv:2501.12948, sec. 2.3 and 2.4. One budget, cut into five shares:
1 a copy of the start learns some worked solutions, so that RL begins with something to read;
2 GRPO with the verifier's reward, A_i = (r_i - mean r) / std r within the group of a problem;
3 right samples of it, each text once a problem, teach a FRESH copy of the start: what RL spoilt is left behind;
4 GRPO again, with reward r + sigmoid(judge): a judge of - log sigmoid(r_chosen - r_rejected) says what people prefer;
5 its right samples, and those of stage 3, teach the model itself, by SFT alone (the paper takes stage 3's).
Data: problems with worked solutions and their verifier, and preference pairs. Trains: every weight. Cost: five stages
share what others have for one, and the weights of four are thrown away. It pays where the student is smaller than the
teacher; here both have one size, and the row shows what survives the distillation.
Shapes: B problems, n samples each, R = B n rows. Left out: the reward for one language, other data in stage 3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import ClassVar, TypeVar

import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch

from harness import Model, Problem, Run, TrainingData, hookimpl
from harness.toolbox import (
    Reward,
    Sequences,
    TokenPair,
    adamw,
    collate,
    completion_loss,
    cosine_with_warmup,
    descend,
    encode_pairs,
    final_values,
    policy_gradient,
    random_reward_twin,
    roll_out,
    scalar_head,
    set_rate,
    update,
    verified,
    whole_pairs,
    worked_examples,
)

T = TypeVar("T")
Bonus = Callable[[Sequences], torch.Tensor]
"""(R,) reward beside the verifier's, of R rows."""
Problems = Iterable[list[Problem]]
Span = tuple[float, float]  # shares of the budget at which a phase begins and ends


def until(batches: Iterable[T], run: Run, share: float) -> Iterator[T]:
    """Batches, at least one, until `share` of the budget is spent."""
    for batch in batches:
        yield batch
        if run.progress >= share:
            return


def free(rows: Sequences) -> torch.Tensor:
    """No bonus."""
    return torch.zeros(len(rows), device=rows.index.device)


@dataclass(frozen=True)
class R1Pipeline:
    name: ClassVar[str] = "r1-pipeline"
    family: ClassVar[str] = "reinforcement-learning"
    needs: ClassVar[tuple[str, ...]] = ("pairs",)
    cold_start: float = 0.2
    """Share of the budget of stage 1."""
    reasoning: float = 0.3
    """Of stage 2."""
    resampling: float = 0.2
    """Of stage 3; half of it samples."""
    preferences: float = 0.1
    """Of stage 4; half of it teaches the judge. Stage 5 has the rest; half of it samples."""
    problems: int = 4
    """Problems a rollout."""
    samples: int = 16
    """Completions a problem, at temperature 1: the group. At least 2: one alone is its own mean."""
    most: int = 4
    """Right samples kept a problem at most, so that easy problems do not outweigh the others."""
    batch_size: int = 16
    """Examples, or pairs, an optimiser step."""
    lr: float = 3e-4
    """Peak learning rate of AdamW in reinforcement learning; suits models of a million parameters."""
    sft_lr: float = 1e-3
    """The same of fine-tuning, whose stages are short."""

    def __post_init__(self) -> None:
        shares = (self.cold_start, self.reasoning, self.resampling, self.preferences)
        if min(shares) <= 0 or sum(shares) >= 1:
            msg = f"the shares of {self.name} must each be above 0 and leave something to distillation, not {shares}"
            raise ValueError(msg)
        if self.samples <= 1:
            msg = f"samples of {self.name} must be at least 2, not {self.samples}: a group of one has no advantage"
            raise ValueError(msg)

    def train(self, model: Model, data: TrainingData, run: Run) -> None:
        reward, problems = self.reward(data, run), run.batches(data.problems, self.problems)
        shares = (self.cold_start, self.reasoning, *[self.resampling / 2] * 2, *[self.preferences / 2] * 2)
        cold, reasoned, sampled, tuned, judged, preferred = accumulate(shares)
        examples = worked_examples(data, unworked=False)
        worked = [(model.encode_prompt(prompt), model.encode_completion(text)) for prompt, text in examples]
        policy = model.clone()
        self.learn(policy, worked, run, (0.0, cold), stage=1)
        self.reinforce(policy, reward, problems, run, (cold, reasoned), stage=2)
        kept = self.right_samples(policy, reward, problems, run, sampled)
        policy = model.clone()
        self.learn(policy, kept, run, (sampled, tuned), stage=3)
        bonus = self.preference(policy, data, run, (tuned, judged))
        self.reinforce(policy, reward, problems, run, (judged, preferred), stage=4, bonus=bonus)
        kept += self.right_samples(policy, reward, problems, run, (1 + preferred) / 2)
        self.learn(model, kept, run, ((1 + preferred) / 2, 1.0), stage=5)

    def learn(self, model: Model, examples: Sequence[TokenPair], run: Run, span: Span, stage: int) -> None:
        """Supervised fine-tuning for a span of the budget."""
        optimizer = adamw(model, self.sft_lr)
        for batch in until(run.batches(examples, self.batch_size), run, span[1]):
            loss = completion_loss(model, collate(model, batch))
            set_rate(optimizer, self.sft_lr * cosine_with_warmup(run, begin=span[0], end=span[1]))
            update(optimizer)
            run.log(stage=stage, loss=loss)

    def reinforce(  # noqa: PLR0917 - a stage is made of these
        self, policy: Model, reward: Reward, problems: Problems, run: Run, span: Span, stage: int, bonus: Bonus = free
    ) -> None:
        """GRPO for a span of the budget; `bonus` is added to the rewards."""
        optimizer = adamw(policy, self.lr)
        for batch in until(problems, run, span[1]):
            rollouts = roll_out(policy, batch, run, self.samples, reward)
            reward_Bn = rollouts.by_problem(rollouts.rewards + bonus(rollouts.sequences))
            centred_Bn = reward_Bn - reward_Bn.mean(-1, keepdim=True)
            advantage_Bn = centred_Bn / (reward_Bn.std(-1, keepdim=True) + 1e-4)  # as in TRL
            weight_R = 1 / (len(rollouts.rewards) * rollouts.lengths.clamp(min=1))
            facts = policy_gradient(policy, rollouts.sequences, advantage_Bn.view(-1, 1), weight_R)
            set_rate(optimizer, self.lr * cosine_with_warmup(run, begin=span[0], end=span[1]))
            update(optimizer)
            wasted = float((advantage_Bn == 0).all(-1).float().mean())  # groups that taught nothing
            run.log(stage=stage, **rollouts.facts(), **facts, wasted=wasted)

    def right_samples(self, policy: Model, reward: Reward, problems: Problems, run: Run, end: float) -> list[TokenPair]:
        """Right samples that the policy ended itself, each text once a problem. ValueError: there is none."""
        kept: list[TokenPair] = []
        for batch in until(problems, run, end):
            rollouts = roll_out(policy, batch, run, self.samples, reward)
            judged = list(zip(rollouts.completions, rollouts.rewards.tolist(), strict=True))
            for number, problem in enumerate(batch):
                of_one = judged[number * self.samples : (number + 1) * self.samples]
                distinct = {c.text: c.tokens for c, worth in of_one if worth > 0 and c.finish == "eos"}
                kept += [(policy.encode_prompt(problem.prompt), t) for t in list(distinct.values())[: self.most]]
            run.log(**rollouts.facts(), kept=len(kept))
        if not kept:
            msg = f"{self.name}: no sample was right, so there is nothing to fine-tune on; give it a larger budget"
            raise ValueError(msg)
        return kept

    def preference(self, policy: Model, data: TrainingData, run: Run, span: Span) -> Bonus:
        """Teach a copy of the policy which completion of a pair is preferred; its word, 0 to 1, is the bonus."""
        judge = policy.clone()
        head = judge.heads["preference"] = scalar_head(judge)
        optimizer = adamw(judge, self.lr)
        for pairs in until(run.batches(data.pairs, self.batch_size), run, span[1]):
            both = [(p.prompt, p.chosen) for p in pairs] + [(p.prompt, p.rejected) for p in pairs]
            rows = whole_pairs(encode_pairs(judge, both))
            if rows is None:
                continue
            chosen_B, rejected_B = final_values(judge, rows, head).chunk(2)
            loss = -F.logsigmoid(chosen_B - rejected_B).mean()
            set_rate(optimizer, self.lr * cosine_with_warmup(run, begin=span[0], end=span[1]))
            descend(loss, optimizer)
            run.log(judge_loss=loss.item(), ranked=(chosen_B > rejected_B).float().mean().item())
        return torch.no_grad()(lambda rows: final_values(judge, rows, head).sigmoid())

    def reward(self, data: TrainingData, run: Run) -> Reward:
        """Whether a completion is right, 1 or 0."""
        del run
        return verified(data)


R1PipelineRandomReward = random_reward_twin(R1Pipeline)


@hookimpl
def harness_methods() -> list[type]:
    return [R1Pipeline, R1PipelineRandomReward]
