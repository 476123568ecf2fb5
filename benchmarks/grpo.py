"""GRPO beside TRL's `GRPOTrainer`, which samples with transformers: steps with real rewards, sampling included.

Each side draws samples of its own, from the same distribution: the rate is so low that the policy stays what it was.
Groups without any advantage are common, and what is spent on them can be saved; either side's share of them is told.
"""

from __future__ import annotations

import dataclasses
import re
import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar

from trl import GRPOConfig, GRPOTrainer

from benchmarks.course import questions, train, world
from benchmarks.limit import matrix_seconds, training_rate
from benchmarks.models import Setting
from benchmarks.pairs import OURS, Figures, interleave, whole_run
from benchmarks.tuned_trl import options, run_trainer, says
from harness import Problem, Run, TrainingData
from harness.builtin.causal_lm import CausalLM
from harness.toolbox.rollouts import DRIFT_EVERY
from harness_rl.grpo import GRPO

T = TypeVar("T")
GOALS = {"tiny": 2.0, "smollm2": 1.6}
LONGEST = 64
"""Most tokens of a completion."""
RATE = 1e-6
THING = re.compile(r"How many (\w+)")
TRL = "trl"


class OneEpoch(Run):
    """A run that ends when every problem was there once: how many tokens that takes is known when they are sampled."""

    def batches(self, items: Sequence[T], size: int, epochs: int | None = None) -> Iterator[list[T]]:
        """As of any run, once."""
        del epochs
        return super().batches(items, size, epochs=1)


def measure(setting: Setting) -> dict[str, Figures]:
    """Some steps of GRPO."""
    method = GRPO(problems=setting.scaled(4, 2, 2), samples=setting.scaled(16, 8, 4), lr=RATE)
    steps = setting.scaled(DRIFT_EVERY, DRIFT_EVERY, 1)  # one of so many measures how far the policy has gone
    problems = questions(method.problems * steps)
    data = dataclasses.replace(world().training(), problems=problems)
    if setting.kind == "smollm2":
        data = dataclasses.replace(data, verify=names_what_is_counted)
    runs, logs = list[Run](), list[list[dict[str, float]]]()

    def ours(model: CausalLM) -> None:
        runs.append(train(method, model, data, OneEpoch(len(runs), max_new_tokens=LONGEST)))

    def trl(model: CausalLM) -> None:
        trainer = peer(setting, method, data, steps=steps, seed=len(logs), module=model.module)
        logs.append(trainer.state.log_history)

    sides = {name: whole_run(setting.model.clone, work, steps) for name, work in ((OURS, ours), (TRL, trl))}
    seconds = interleave(sides, setting.pairs, setting.clock)
    wasted = mean([run.curve for run in runs[1:]], "wasted")
    figures = Figures.of(
        f"step of {method.problems} problems with {method.samples} samples each",
        seconds,
        TRL,
        limit_share=least(setting, runs[1:]) / steps / statistics.median(seconds[OURS]),
        zero_advantage=wasted,
        at_least=GOALS[setting.kind] if wasted < 1 else None,  # where no reward differs, it is not about learning
        notes=(told("here", [r.curve for r in runs[1:]]), told("there", logs[1:], TRL_NAMES)),
    )
    return {"grpo": figures}


def names_what_is_counted(problem: Problem, text: str) -> tuple[bool, str | None]:
    """Whether a text stays with what the question counts: SmolLM2 samples too wildly for right answers to be seen."""
    return THING.findall(problem.prompt)[-1] in text, None


def peer(setting: Setting, method: GRPO, data: TrainingData, *, steps: int, seed: int, module: Any) -> Any:
    """TRL on the same problems, with the loss of ours: no KL term, means over rows of means over tokens."""
    by_id = {problem.id: problem for problem in data.problems}

    def reward(completions: Sequence[Any], name: Sequence[str], **_: Any) -> list[float]:
        texts = [completion[0]["content"] for completion in completions]
        return [float(data.verify(by_id[one], text)[0]) for one, text in zip(name, texts, strict=True)]

    chosen = {
        "num_generations": method.samples,
        "max_completion_length": LONGEST,
        "temperature": 1.0,
        "top_p": 1.0,
        "top_k": 0,
        "beta": 0.0,
        "loss_type": "grpo",
        "shuffle_dataset": False,
        "seed": seed,
    }
    arguments = options(setting, method.lr, steps, method.problems * method.samples) | chosen
    rows = [{"prompt": says("user", problem.prompt), "name": problem.id} for problem in data.problems]
    return run_trainer((GRPOTrainer, GRPOConfig), setting, rows, arguments, model=module, reward_funcs=reward)


def least(setting: Setting, runs: Sequence[Run]) -> float:
    """Seconds that the matrix products of a run take: what had an advantage trained on, all else read once."""
    trained = statistics.mean(run.ledger.trained_tokens for run in runs)
    read = statistics.mean(run.ledger.own_tokens for run in runs) - trained
    rate = training_rate(setting.model)
    return matrix_seconds(setting.model, rate, trained=trained, read=read)


OUR_NAMES = {"wasted": "wasted", "reward": "reward", "length": "length"}
TRL_NAMES = {"wasted": "frac_reward_zero_std", "reward": "reward", "length": "completions/mean_length"}


def mean(curves: Sequence[Sequence[Mapping[str, float]]], name: str) -> float:
    """Of a figure over all steps of all runs."""
    return statistics.mean(float(point[name]) for curve in curves for point in curve if name in point)


def told(side: str, curves: Sequence[Sequence[Mapping[str, float]]], names: Mapping[str, str] = OUR_NAMES) -> str:
    """What the samples of a side were like, in a sentence."""
    wasted, reward, length = (mean(curves, names[name]) for name in ("wasted", "reward", "length"))
    return f"{side} {wasted:.0%} of groups have no advantage, mean reward {reward:.2f}, {length:.1f} tokens a sample"
