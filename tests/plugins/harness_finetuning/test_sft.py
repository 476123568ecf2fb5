"""SFT: the loss is on the answer and its end token, and on nothing else."""

import dataclasses
import math

import pytest
import torch

from harness import Run
from harness.toolbox import completion_loss, llama
from harness_finetuning.sft import SFT


def test_a_uniform_model_has_loss_ln_v(tiny_model):
    torch.nn.init.zeros_(tiny_model.module.lm_head.weight)
    loss = completion_loss(tiny_model, [("1+1?", "A: 2"), ("10+10?", "A: 20")], backward=False)
    assert loss == pytest.approx(math.log(tiny_model.module.config.vocab_size), rel=1e-5)


def test_the_question_is_not_learnt(tiny_model, toy_data, monkeypatch):
    """The gradient is that of the completion tokens' own log-probabilities."""
    seen = []
    method = SFT(lr=0.0, batch_size=12)
    monkeypatch.setattr("harness_finetuning.sft.update", lambda optimizer: seen.append(gradient(tiny_model)))
    run = Run(0, budget=1)
    run.watch(tiny_model)
    method.train(tiny_model, toy_data, run)
    total, count = torch.zeros(()), 0
    tiny_model.module.zero_grad()
    for problem in toy_data.problems:
        prompt, target = tiny_model.encode_prompt(problem.prompt), tiny_model.encode_completion(f"A: {problem.answer}")
        logits = tiny_model.module(torch.tensor([prompt + target])).logits[0].log_softmax(-1)
        for place, token in enumerate(target):  # the end token is the last of them
            total, count = total - logits[len(prompt) + place - 1, token], count + 1
    (total / count).backward()
    assert torch.allclose(seen[0], gradient(tiny_model), rtol=1e-4, atol=1e-7)


def test_labels_are_answers_and_their_end_and_no_token_of_a_question(train, tiny_model, toy_data, monkeypatch):
    """Which rows of the logits get a gradient: those that predict the answer and `eos`, whatever the question says."""
    outputs = []

    def keep(module, args, kwargs, output):
        output.logits.retain_grad()
        outputs.append((kwargs["input_ids"], output.logits))

    tiny_model.module.register_forward_hook(keep, with_kwargs=True)
    questions = ["2+2?", "How many is 4+3?", "A: 9"]  # of several lengths, so that one forward pass holds some of each
    problems = [dataclasses.replace(p, prompt=q) for p, q in zip(toy_data.problems, questions, strict=False)]
    monkeypatch.setattr("harness.toolbox.training.length_groups", lambda rows, groups: [rows])
    monkeypatch.setattr(llama, "supports", lambda _: False)  # the module's own pass shows logits of prompts as well
    train(SFT(), tokens=1, data=dataclasses.replace(toy_data, problems=problems))
    [(ids, logits)] = outputs
    learnt = logits.grad.abs().sum(-1)[:, :-1] > 0  # place t predicts token t + 1
    labels = [row[mask].tolist() for row, mask in zip(ids[:, -learnt.shape[1] :], learnt, strict=True)]
    assert sorted(labels) == sorted(tiny_model.encode_completion(f"A: {p.answer}") for p in problems)
    assert all(row[-1] == tiny_model.eos for row in labels)


def test_every_row_begins_with_one_bos_even_where_the_template_adds_another(train, tiny_model):
    tokenizer, seen = tiny_model.tokenizer, []
    tokenizer.chat_template = tokenizer.bos_token + tokenizer.chat_template
    tiny_model.module.register_forward_hook(lambda m, a, kwargs, o: seen.extend(kwargs["input_ids"]), with_kwargs=True)
    train(SFT(), tokens=1)
    assert len(seen) == 12
    for row in seen:
        assert (row == tokenizer.bos_token_id).nonzero().flatten().tolist() == [0]


def test_an_answer_that_does_not_fit_is_counted_never_cut(train, tiny_model, make_model, toy_data):
    long = dataclasses.replace(toy_data.problems[0], id="long", answer="9" * 200)
    wordy = dataclasses.replace(toy_data.problems[1], id="wordy", prompt="7" * 200)
    data = dataclasses.replace(toy_data, problems=[*toy_data.problems, long])
    run = train(SFT(), tokens=1, data=data)
    assert (run.ledger.dropped_rows, run.ledger.shortened_rows) == (1, 0)
    without = make_model()
    train(SFT(), tokens=1, model=without)
    first, second = (m.module.state_dict() for m in (tiny_model, without))
    for name in first:  # it taught nothing, not even a part of the answer
        assert torch.allclose(first[name], second[name], atol=1e-5), name
    run = train(SFT(), tokens=1, data=dataclasses.replace(toy_data, problems=[wordy]))
    assert (run.ledger.dropped_rows, run.ledger.shortened_rows) == (0, 1)


def gradient(model):
    return torch.cat([p.grad.flatten() for p in model.module.parameters()]).clone()


def test_it_learns_answers_alone_within_its_budget(train, tiny_model, toy_data):
    run = train(SFT(lr=1e-2, batch_size=4), tokens=6000)
    assert run.curve[-1]["loss"] < 0.5 * run.curve[0]["loss"]
    assert run.ledger.trained_tokens == run.spent
    assert 6000 <= run.spent < 6000 + 4 * 40
    targets = {toy_data.render_target(p, False) for p in toy_data.problems}
    assert not any("T:" in target for target in targets)


def test_the_same_seed_gives_the_same_weights(train, make_model):
    models = [make_model(seed=3) for _ in range(2)]
    for model in models:
        train(SFT(batch_size=4), tokens=1500, model=model)
    assert models[0].fingerprint() == models[1].fingerprint()


def test_without_problems_it_says_so(tiny_model, toy_data):
    empty = type(toy_data)([], [], toy_data.verify, toy_data.render_target)
    with pytest.raises(ValueError, match="nothing to train on"):
        SFT().train(tiny_model, empty, Run(0, budget=10))
