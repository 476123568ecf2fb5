"""Metrics: figures of one answers record. Pure functions of the facts, so that old results make new boards.

A figure that the facts do not hold is None, never 0: no samples were scored, no sampled answer was drawn.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from harness.builtin.verifier import verifier
from harness.contracts import Metric
from harness.hookspecs import hookimpl
from harness.statistics import mean

Figures = dict[str, float | None]
_BUDGETED = ("prompt_tokens", "sampled_tokens", "scored_tokens", "trained_tokens")


def accuracy(record: Mapping[str, Any]) -> Figures:
    """Share of problems answered right, and why others were not: nothing to parse, cut off at the token limit.

    `accuracy`, `parse_failures`, `truncated` and `sampled_accuracy` are shares from 0 to 1, `n` is problems.
    """
    answers = record["answers"]
    return {
        "accuracy": mean(answer["correct"] for answer in answers),
        "n": float(len(answers)),
        "parse_failures": mean(answer["extracted"] is None for answer in answers),
        "truncated": mean(answer["finish"] == "length" for answer in answers),
        "sampled_accuracy": mean(
            answer["sampled_correct"] for answer in answers if answer.get("sampled_correct") is not None
        ),
    }


def cost(record: Mapping[str, Any]) -> Figures:
    """Give sampled tokens and FLOPs a question; tokens, seconds and FLOPs of training since the base model.

    Training sums the whole chain of stages, shared ones included: it is what this row would have cost alone. It
    holds a teacher's tokens and FLOPs, though no budget counts them (`other_tokens` of a stage's ledger is that part).
    """
    answers, training = record["answers"], record.get("training") or []
    ledgers = [stage["ledger"] for stage in training]
    return {
        "tokens_per_question": mean(answer["sampled_tokens"] for answer in answers),
        "flops": mean(answer["flops"] for answer in answers),
        "train_tokens": math.fsum(ledger.get(kind, 0) for ledger in ledgers for kind in _BUDGETED),
        "train_s": math.fsum(stage["seconds"] for stage in training),
        "train_flops": math.fsum(ledger.get("flops", 0.0) for ledger in ledgers),
    }


def training(record: Mapping[str, Any]) -> Figures:
    """Parameters that the last stage of the policy trained, what was forgotten, and what did not fit the context.

    `forgetting` is by how much the loss on earlier knowledge rose, in nats a token over the whole chain of stages, from
    the base model on; below 0 it is a gain. `wasted` is the share of the last stage's rollouts that taught nothing;
    `stopped` is 1 where a stage was ended because its policy ran away. `dropped_rows` are completions longer than the
    context, of which nothing was learnt, `shortened_rows` prompts that were cut on their left; each counts once for
    every time it came up.
    """
    stages = [stage for stage in record.get("training") or [] if stage.get("role") == "policy"]
    losses = [stage.get("general_loss") or [None, None] for stage in stages]
    known = losses and losses[0][0] is not None and losses[-1][1] is not None
    return {
        "trainable_parameters": stages[-1].get("trainable_parameters") if stages else None,
        "forgetting": losses[-1][1] - losses[0][0] if known else None,
        "wasted": stages[-1].get("wasted") if stages else None,
        "stopped": float(any(stage.get("stopped") for stage in stages)) if stages else None,
        **{
            name: math.fsum(stage["ledger"].get(name, 0) for stage in stages) if stages else None
            for name in ("dropped_rows", "shortened_rows")
        },
    }


@hookimpl
def harness_metrics() -> list[Metric]:
    """Metrics of the built-in boards."""
    return [
        Metric(
            "accuracy",
            "share of problems answered right, of unparsed and of truncated answers",
            accuracy,
            columns=("sampled_accuracy", "parse_failures", "truncated"),
        ),
        Metric("cost", "tokens and FLOPs a question, and tokens, seconds and FLOPs of training", cost),
        Metric(
            "training",
            "parameters that were trained, and what was forgotten",
            training,
            columns=("trainable_parameters", "forgetting", "wasted", "stopped", "dropped_rows", "shortened_rows"),
        ),
        Metric("verifier", "what the scorer's judgements of samples and of their steps are worth", verifier),
    ]
