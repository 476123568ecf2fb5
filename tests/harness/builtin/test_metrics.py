"""Figures of records whose numbers can be worked out in the head."""

from __future__ import annotations

import copy
import json

import pytest

from harness.builtin.metrics import accuracy, cost, harness_metrics, training


def answer(number, *, correct=True, extracted="7", finish="eos", **more):
    return {
        "id": f"p{number}",
        "correct": correct,
        "extracted": extracted,
        "finish": finish,
        "sampled_correct": None,
        "prompt_tokens": 10,
        "sampled_tokens": 20,
        "scored_tokens": 5,
        "flops": 1e6,
        "samples": [],
        **more,
    }


def record(*answers, training=()):
    return {"schema": 1, "kind": "answers", "key": "ab", "answers": list(answers), "training": list(training)}


def stage(seconds, **ledger):
    return {"method": "sft", "key": "cd", "seconds": seconds, "ledger": ledger, "curve": [], "peak_memory_bytes": 1}


def test_accuracy_by_hand():
    figures = accuracy(
        record(
            answer(1, sampled_correct=True),
            answer(2, correct=False, extracted=None, finish="length", sampled_correct=False),
            answer(3, correct=False, finish="stop"),
            answer(4, sampled_correct=False),
        )
    )
    assert figures == {
        "accuracy": 0.5,
        "n": 4,
        "parse_failures": 0.25,
        "truncated": 0.25,
        "sampled_accuracy": pytest.approx(1 / 3),
    }


def test_what_was_not_drawn_is_none_and_not_0():
    assert accuracy(record(answer(1)))["sampled_accuracy"] is None
    assert accuracy(record())["accuracy"] is None
    assert cost(record())["tokens_per_question"] is None


def test_cost_by_hand():
    figures = cost(
        record(
            answer(1, sampled_tokens=10, flops=1e6),
            answer(2, sampled_tokens=30, flops=3e6),
            training=[
                stage(2.5, prompt_tokens=1, sampled_tokens=10, scored_tokens=100, trained_tokens=1000, flops=4.0),
                stage(1.5, trained_tokens=5000, reused_tokens=7, model_calls=9, flops=6.0),
            ],
        )
    )
    assert figures == {
        "tokens_per_question": 20,
        "flops": 2e6,
        "train_tokens": 6111,
        "train_s": 4.0,
        "train_flops": 10.0,
    }


def test_a_teacher_is_part_of_what_training_cost():
    facts = record(answer(1), training=[stage(1.0, trained_tokens=100, scored_tokens=80, other_tokens=80, flops=9.0)])
    assert (cost(facts)["train_tokens"], cost(facts)["train_flops"]) == (180, 9.0)


def test_an_untrained_row_cost_no_training():
    figures = cost(record(answer(1)))
    assert (figures["train_tokens"], figures["train_s"], figures["train_flops"]) == (0, 0, 0)


def test_metrics_are_pure_named_and_columned():
    facts = record(answer(1, samples=[{"correct": True, "score": 1.0}]), training=[stage(1.0, trained_tokens=1)])
    before = copy.deepcopy(facts)
    metrics = harness_metrics()
    assert [metric.name for metric in metrics] == ["accuracy", "cost", "training", "verifier"]
    for metric in metrics:
        figures = metric.figures(facts)
        assert figures == metric.figures(json.loads(json.dumps(facts)))
        assert set(metric.columns) <= set(figures)
        assert metric.summary
    assert facts == before


def test_forgetting_is_over_the_whole_chain_of_the_policy():
    def trained(role, losses, parameters):
        return {**stage(1.0), "role": role, "general_loss": losses, "trainable_parameters": parameters}

    chain = [trained("policy", [1.0, 1.25], 800), trained("policy", [1.25, 1.75], 30)]
    judged = [*chain, trained("scorer", [1.75, 9.0], 900)]
    for stages in (chain, judged):
        figures = training(record(answer(1), training=stages))
        assert (figures["trainable_parameters"], figures["forgetting"]) == (30, 0.75)
    for unknown in ([], [trained("policy", [None, None], 5)]):
        assert training(record(answer(1), training=unknown))["forgetting"] is None


def test_what_did_not_fit_is_summed_over_the_stages_of_the_policy():
    chain = [
        {**stage(1.0, dropped_rows=3, shortened_rows=1), "role": "policy"},
        {**stage(1.0, dropped_rows=4), "role": "policy"},
        {**stage(1.0, dropped_rows=50), "role": "scorer"},
    ]
    figures = training(record(answer(1), training=chain))
    assert (figures["dropped_rows"], figures["shortened_rows"]) == (7, 1)
    assert training(record(answer(1)))["dropped_rows"] is None


def test_what_rollouts_taught_nothing_and_why_training_ended():
    chain = [{**stage(1.0), "role": "policy", "stopped": "the KL"}, {**stage(1.0), "role": "policy", "wasted": 0.25}]
    figures = training(record(answer(1), training=chain))
    assert (figures["wasted"], figures["stopped"]) == (0.25, 1.0)
    figures = training(record(answer(1), training=[{**stage(1.0), "role": "policy"}]))
    assert (figures["wasted"], figures["stopped"]) == (None, 0.0)
