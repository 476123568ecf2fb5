"""What the tests of preference methods share: pairs of unequal lengths, and a single step on them."""

import dataclasses
import sys

import pytest
import torch

from harness import Pair, Run
from harness.toolbox import encode_pairs, training


@pytest.fixture
def uneven_pairs():
    """Completions of 2 to 18 tokens, so that a mean, a sum and a mean of means all differ."""
    return [
        Pair("a", "1+1?", "A: 2", "A: no idea at all"),
        Pair("b", "2+20?", "T: 2+20=22. A: 22", "A: 5"),
        Pair("c", "How many is 3+1?", "A: 4", "B"),
    ]


@pytest.fixture
def too_long():
    """A pair whose chosen completion is longer than the context of the random model."""
    return Pair("d", "7+7?", "9" * 200, "A: 5")


def widen(rows, columns):
    """The same rows with columns of masked junk behind them."""
    junk = torch.randint(3, 40, (len(rows), columns), generator=torch.Generator().manual_seed(0))
    none = torch.zeros_like(junk)
    return dataclasses.replace(
        rows,
        input_ids=torch.cat([rows.input_ids, junk], 1),
        attention_mask=torch.cat([rows.attention_mask, none], 1),
        completion_mask=torch.cat([rows.completion_mask, none.bool()], 1),
        position_ids=torch.cat([rows.position_ids, none], 1),
    )


@pytest.fixture
def one_step(make_model, toy_data, monkeypatch):
    """Train one step on all of some pairs; the run. `pad` columns are put behind every row; `reference` replaces it."""

    def go(method, pairs, pad=0, reference=None):
        module = sys.modules[type(method).__module__]
        model, run = make_model(seed=3), Run(7, budget=1)
        run.watch(model)
        with monkeypatch.context() as patch, run.pays():
            for owner in (module, training):
                patch.setattr(owner, "encode_pairs", lambda m, rows: widen(encode_pairs(m, rows), pad), raising=False)
            if reference is not None:
                patch.setattr(module, "frozen_copy", lambda _: reference)
            patch.setattr(training, "length_groups", lambda rows, groups: [rows])  # it would cut the padding off
            patch.setattr("harness.toolbox.logprobs.length_groups", lambda rows, groups: [rows])
            method.train(model, dataclasses.replace(toy_data, pairs=pairs), run)
        run.close()
        return run

    return go


@pytest.fixture
def logprob():
    """(sum of log-probabilities, number of tokens) of one completion, without padding and without the toolbox."""

    def go(model, prompt, completion):
        ids, target = model.encode_prompt(prompt), model.encode_completion(completion)
        with torch.no_grad():
            logprobs = model.module(torch.tensor([ids + target])).logits[0].log_softmax(-1)
        return sum(float(logprobs[len(ids) + t - 1, token]) for t, token in enumerate(target)), len(target)

    return go


@pytest.fixture
def teacher(make_model):
    """A random model that is far from the student, and sure of what it says."""
    return make_model(seed=5, sharpness=0.25)


@pytest.fixture
def distil(tiny_model, teacher, toy_data):
    """Train the random model with a method that asks for a teacher; the run."""

    def go(method, tokens=6000, *, data=toy_data, model=tiny_model, teacher=teacher, max_new_tokens=12):
        run = Run(7, budget=tokens, max_new_tokens=max_new_tokens, open_model=lambda name: teacher)
        run.watch(model)
        method.train(model, data, run)
        run.close()
        return run

    return go


@pytest.fixture
def mean_kl(toy_data):
    """Mean KL(p || q) in nats over the tokens of the toy targets, row by row, without the toolbox."""

    def go(p, q):
        kls = []
        for problem in toy_data.problems:
            prompt = p.encode_prompt(problem.prompt)
            target = p.encode_completion(toy_data.render_target(problem, True))
            ids, first = torch.tensor([prompt + target]), len(prompt) - 1
            with torch.no_grad():
                p_TV, q_TV = (m.module(ids).logits[0, first:-1].log_softmax(-1) for m in (p, q))
            kls += (p_TV.exp() * (p_TV - q_TV)).sum(-1).tolist()
        return sum(kls) / len(kls)

    return go
