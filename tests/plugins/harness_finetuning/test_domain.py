"""Domain: all of the text is learnt, replay has its share, both phases have their part of the budget."""

import dataclasses

import pytest

from harness import Run
from harness.toolbox import collate_masked, completion_loss
from harness_finetuning.domain import Domain, pieces

GENERAL = [(f"{i}*2?", f"A: {i}{i}") for i in range(9)]
CORPUS = [f"the bank has {i} dollars." for i in range(45)]


def with_corpus(data, corpus=CORPUS, general=GENERAL):
    return type(data)(data.problems, data.dev, data.verify, data.render_target, corpus=corpus, general=general)


def test_every_token_of_a_text_is_learnt_but_the_first(tiny_model):
    [(ids, mask)] = pieces(tiny_model, [1], "a bank.")
    assert tiny_model.tokenizer.decode(ids) == "<bos>a bank.<eos>"
    assert mask == [False] + [True] * (len(ids) - 1)


def test_of_a_text_longer_than_the_context_nothing_is_lost(tiny_model):
    text = "a bank has it. " * 20
    rows = pieces(tiny_model, [1], text)
    assert len(rows) == 3
    assert all(len(ids) <= tiny_model.context for ids, _ in rows)
    assert [token for ids, _ in rows for token in ids] == [1, *tiny_model.encode_completion(text)]


def test_a_solved_problem_that_does_not_fit_is_counted(train, toy_data):
    long = dataclasses.replace(toy_data.problems[0], rationale="T: " + "9" * 200)
    data = with_corpus(dataclasses.replace(toy_data, problems=[long, *toy_data.problems[1:]]))
    assert train(Domain(batch_size=4), tokens=3000, data=data).ledger.dropped_rows == 1


def test_replay_has_its_share(tiny_model, toy_data):
    data = with_corpus(toy_data)
    for share in (0.0, 0.1, 0.25):
        texts = [tiny_model.decode(ids) for ids, _ in Domain(replay=share).texts(tiny_model, data, Run(0))]
        replayed = sum(text.startswith("Q: ") for text in texts)
        assert replayed / len(texts) == pytest.approx(share, abs=0.01)
        assert len(texts) - replayed == len(CORPUS)
    assert len(Domain().texts(tiny_model, with_corpus(toy_data, general=()), Run(0))) == len(CORPUS)


def test_each_phase_has_its_part_of_the_budget_and_its_own_schedule(train, toy_data, monkeypatch):
    rates = []
    monkeypatch.setattr("harness_finetuning.domain.set_rate", lambda optimizer, rate: rates.append(rate))
    run = train(Domain(pretraining=0.4, batch_size=4), tokens=8000, data=with_corpus(toy_data))
    first = [rate for rate, point in zip(rates, run.curve, strict=True) if point["tokens"] <= 3200]
    second = rates[len(first) + 1 :]
    for phase in (first, second):
        assert max(phase) > 0.9 * Domain.lr
        assert phase[-1] < 0.25 * Domain.lr
    assert 8000 <= run.spent < 8000 + 4 * 40


def test_it_learns_both_the_text_and_the_problems(train, tiny_model, toy_data):
    data = with_corpus(toy_data)
    rows = [row for text in data.corpus for row in pieces(tiny_model, [1], text)]
    asked = [(p.prompt, data.render_target(p, True)) for p in data.problems]
    before = [completion_loss(tiny_model, of, backward=False) for of in (collate_masked(tiny_model, rows), asked)]
    train(Domain(lr=1e-2, batch_size=8), tokens=12_000, data=data)
    after = [completion_loss(tiny_model, of, backward=False) for of in (collate_masked(tiny_model, rows), asked)]
    assert after[0] < 0.75 * before[0]  # phase 2 takes some of it back
    assert after[1] < 0.5 * before[1]


def test_the_question_of_a_solved_problem_is_not_learnt(tiny_model, toy_data):
    for ids, mask in Domain().examples(tiny_model, toy_data)[0]:
        text = tiny_model.tokenizer.decode([token for token, learnt in zip(ids, mask, strict=True) if learnt])
        assert text.startswith("T: ")
        assert text.endswith("<eos>")


def test_with_replay_less_of_the_general_is_lost(train, make_model, toy_data):
    data = with_corpus(toy_data)
    losses = {}
    for share in (0.0, 0.5):
        model = make_model(seed=3)
        for _ in range(2):  # the model knows the general turns first
            train(type("Known", (Domain,), {})(pretraining=1.0, replay=0.9, lr=1e-2, batch_size=8), 8000, data, model)
        train(Domain(pretraining=0.9, replay=share, lr=1e-2, batch_size=8), 8000, data, model)
        losses[share] = completion_loss(model, GENERAL, backward=False)
    assert losses[0.5] < losses[0.0]
