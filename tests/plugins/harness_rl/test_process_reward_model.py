"""Process reward model: what it reads where steps end, the loss by hand and by the token classifier that TRL trains."""

import dataclasses
import math
import re

import pytest
import torch
import torch.nn.functional as F  # noqa: N812 - as everywhere in torch
from transformers import LlamaForTokenClassification

from harness import Completion, Run, Stepwise
from harness.toolbox import Draft, collate, judged_ends, labelled_drafts, scalar_head, stepwise_draft
from harness_rl import process_reward_model as module
from harness_rl.process_reward_model import HEAD, ProcessRewardModel, marks, step_logits

TEXT = "T: 10+12=22. 22/2=11.\nA: 11"


@pytest.fixture
def judge(tiny_model):
    """The random model with a head that is not zero."""
    tiny_model.heads[HEAD] = scalar_head(tiny_model, seed=1, features=2)
    return tiny_model


@pytest.fixture
def stepwise_data(toy_data):
    """Right steps say 7, wrong ones 3: something to learn."""
    rows = [Stepwise(f"s{i}", f"{i}+1?", ("7+0=7.", "7-4=3.")[:: 1 - 2 * (i % 2)], (True, False)) for i in range(16)]
    rows = [dataclasses.replace(row, labels=tuple(text[-2] == "7" for text in row.completions)) for row in rows]
    return dataclasses.replace(toy_data, stepwise=rows)


def completion(model, text, *, eos=True):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens if eos else tokens[:-1], (), "eos" if eos else "stop")


def scores(model, *completions, **options):
    return ProcessRewardModel(**options).score(model, "1+1?", completions, Run(0))


# -- what it reads


def test_the_marks_follow_a_prompt_that_was_cut_and_leave_out_a_row_that_does_not_fit(judge):
    prompt, tokens = judge.encode_prompt("1" * 120), judge.encode_completion(TEXT)
    rows = collate(judge, [(prompt, tokens), (prompt, [9] * 200)])
    ends_RT = marks(rows, [[12, 21], [5]])
    assert rows.shortened == rows.dropped == 1
    assert ends_RT.sum(-1).tolist() == [2, 0]
    [columns] = ends_RT[0].nonzero(as_tuple=True)
    assert [judge.decode(rows.input_ids[0, : c + 1])[-4:] for c in columns] == ["=22.", "=11."]


def test_a_step_is_judged_by_hidden_state_and_log_probabilities_up_to_its_end(judge):
    ids, tokens = judge.encode_prompt("1+1?"), judge.encode_completion(TEXT)
    output = judge.module(torch.tensor([ids + tokens]), output_hidden_states=True)
    texts = ("T: 10+12=22.", "T: 10+12=22. 22/2=11.", TEXT)
    ends = [len(ids) + len(text) for text in texts]  # a token a character
    logprob_T = output.logits[0, :-1].log_softmax(-1)[range(len(ids + tokens) - 1), (ids + tokens)[1:]]
    wanted = []
    for end in ends:
        said_T = logprob_T[len(ids) - 1 : end - 1]
        read = torch.cat([output.hidden_states[-1][0, end - 1], torch.stack([said_T.min(), said_T.sum()])])
        wanted.append(judge.heads[HEAD](read).sigmoid().item())
    [score] = scores(judge, completion(judge, TEXT), aggregate="last")
    assert score.steps == pytest.approx(wanted[:2], abs=1e-5)
    assert score.total == pytest.approx(wanted[2], abs=1e-5)  # the answer is judged as well


def test_later_steps_change_nothing_and_nor_do_other_rows(judge):
    whole = "T: 10+12=22. 22/2=11. 11-1=10. 10+5=15."
    cuts = [completion(judge, whole[:end], eos=False) for end in (12, 21, 30, 39)]
    *prefixes, full = scores(judge, *cuts)
    assert len(full.steps) == 4
    for count, prefix in enumerate(prefixes, 1):
        assert prefix.steps == pytest.approx(full.steps[:count], abs=1e-6)
    answered, alone = scores(judge, completion(judge, whole + "\nA: 15")), scores(judge, cuts[0])
    assert answered[0].steps == pytest.approx(full.steps, abs=1e-6)
    assert alone[0].steps == pytest.approx(prefixes[0].steps, abs=1e-5)


@pytest.mark.parametrize("aggregate", ["min", "product", "last", "mean"])
def test_aggregates_by_hand(judge, aggregate):
    [score] = scores(judge, completion(judge, TEXT), aggregate=aggregate)
    one, two = score.steps
    [whole] = scores(judge, completion(judge, TEXT), aggregate="last")
    last = whole.total
    wanted = {"min": min(one, two, last), "product": one * two * last, "last": last, "mean": (one + two + last) / 3}
    assert score.total == pytest.approx(wanted[aggregate], rel=1e-5)
    assert len(set(wanted.values())) >= 3


def test_no_step_scores_least(judge):
    empty, full = scores(judge, completion(judge, "", eos=False), completion(judge, TEXT))
    assert (empty.total, empty.steps) == (0.0, ())
    assert 0 < full.total < 1
    begun = completion(judge, "T: 1.", eos=False)
    cut = dataclasses.replace(begun, finish="length")
    bare, silent, begun, cut = scores(judge, completion(judge, "A: 11"), completion(judge, "T: 1."), begun, cut)
    assert 0 < bare.total < 1
    assert bare.steps == ()
    assert silent.total == cut.total == 0  # it ended without an answer; what is begun may still come to one
    assert silent.steps == pytest.approx(begun.steps)
    assert begun.total > 0


@pytest.mark.parametrize(("field", "value"), [("labels", "guessed"), ("aggregate", "median")])
def test_a_choice_that_is_unknown_is_refused(field, value):
    with pytest.raises(ValueError, match=f"knows no '{value}', but"):
        ProcessRewardModel(**{field: value})


# -- training


def test_the_first_loss_is_that_of_a_head_by_hand(train, judge, stepwise_data, monkeypatch):
    """One batch holds all rows: - mean log p of right steps and log (1 - p) of wrong ones, over all 32 steps."""
    before = judge.clone()
    monkeypatch.setattr(module, "scalar_head", lambda model, features: scalar_head(model, seed=1, features=features))
    run = train(ProcessRewardModel(batch_size=16), tokens=100, data=stepwise_data)
    total = 0.0
    for row in stepwise_data.stepwise:
        text = "T: " + " ".join(row.completions)
        [score] = ProcessRewardModel().score(before, row.prompt, [completion(before, text)], Run(0))
        total -= sum(math.log(p if ok else 1 - p) for p, ok in zip(score.steps, row.labels, strict=True))
    [point] = run.curve
    assert point["loss"] == pytest.approx(total / 32, rel=1e-5)
    assert (point["steps"], point["right"]) == (32, 0.5)


def test_the_head_has_the_gradient_that_it_has_where_the_weights_below_have_one_too(judge, plain_logprobs, apart):
    """They are read without. One row has three steps, the other, which is padded, two."""
    said = {"1+1?": TEXT, "Tom has 12 and 10": "T: 12+10=22.\nA: 22"}
    pairs = [(judge.encode_prompt(asked), judge.encode_completion(text)) for asked, text in said.items()]
    rows, head, label_K = collate(judge, pairs), judge.heads[HEAD], torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    ends_RT, gradients = marks(rows, [judged_ends(judge, tokens)[0] for _, tokens in pairs]), []
    hidden_RTD = judge.module(rows.input_ids, rows.attention_mask, output_hidden_states=True).hidden_states[-1]
    logprob_RT = plain_logprobs(judge, rows)
    state_RTF = torch.cat([hidden_RTD, torch.stack([logprob_RT.cummin(-1).values, logprob_RT.cumsum(-1)], -1)], -1)
    for logit_K in (step_logits(judge, rows, ends_RT), head(state_RTF[ends_RT]).squeeze(-1)):
        head.zero_grad()
        F.binary_cross_entropy_with_logits(logit_K, label_K).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in head.parameters()]))
    assert judge.module.get_input_embeddings().weight.grad.any()
    assert apart(*gradients) <= 1e-5


def test_an_undecided_head_costs_ln_2(train, stepwise_data):
    run = train(ProcessRewardModel(batch_size=16), tokens=100, data=stepwise_data)
    assert run.curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)


def test_the_head_alone_is_trained(train, tiny_model, stepwise_data):
    before = {name: weight.clone() for name, weight in tiny_model.module.state_dict().items()}
    run = train(ProcessRewardModel(batch_size=8), tokens=2000, data=stepwise_data)
    assert all(torch.equal(before[name], weight) for name, weight in tiny_model.module.state_dict().items())
    assert tiny_model.heads[HEAD].weight.all()
    assert sum(p.numel() for p in tiny_model.parameters() if p.requires_grad) == tiny_model.size.width + 3
    assert run.ledger.trained_tokens == 0 < run.ledger.scored_tokens


def test_a_row_that_does_not_fit_is_counted_and_its_labels_are_left_out(train, stepwise_data, make_model):
    long = Stepwise("long", "1+1?", ("9" * 200 + ".", "3."), (True, True))
    fits = [row for row in stepwise_data.stepwise if row.labels == (True, False)]
    runs = [
        train(ProcessRewardModel(), tokens=50, data=dataclasses.replace(stepwise_data, stepwise=rows), model=model)
        for rows, model in ((fits, make_model()), ([*fits, long], make_model()))
    ]
    assert [run.ledger.dropped_rows for run in runs] == [0, 1]
    for fact in ("steps", "loss", "right"):
        assert runs[0].curve[0][fact] == pytest.approx(runs[1].curve[0][fact], rel=1e-5)
    assert runs[0].curve[0]["right"] == 0.5


def test_it_learns_which_steps_are_right(train, tiny_model, stepwise_data):
    run = train(ProcessRewardModel(batch_size=8), tokens=60_000, data=stepwise_data)
    assert run.curve[-1]["accuracy"] > 0.9
    assert run.ledger.sampled_tokens == 0
    right, wrong = (completion(tiny_model, f"T: {text}\nA: 1") for text in ("7+0=7. 7+0=7.", "7+0=7. 7-4=3."))
    good, bad = ProcessRewardModel().score(tiny_model, "1+1?", [right, wrong], Run(0))
    assert good.total > 0.5 > bad.total
    assert bad.steps[0] > 0.5 > bad.steps[1]


def test_the_loss_is_that_of_the_token_classifier_that_trl_trains(judge):
    """TRL's PRM trainer: a two-way softmax at the separator behind each step, -100 elsewhere, and the mean over steps.

    It is equal where the separator is what we take for the last token of a step, and the two classes' difference is
    our head. TRL adds no end of sequence, which nothing is read from.
    """
    steps, labels = ("T: 10+12=22", " 22/2=10", " 10-1=9"), (True, False, False)
    classifier = LlamaForTokenClassification(judge.config)
    classifier.model.load_state_dict(judge.module.model.state_dict())
    classifier.eval()
    with torch.no_grad():
        judge.heads[HEAD].weight[:, -2:] = 0  # TRL reads no log-probabilities
        classifier.score.weight.copy_(torch.cat([torch.zeros(1, judge.size.width), judge.heads[HEAD].weight[:, :-2]]))
        classifier.score.bias.copy_(torch.tensor([0.0, float(judge.heads[HEAD].bias)]))
    prompts, pad = ["1+1?", "Tom has 12 and 10"], -100
    ids, wanted, drafts = [], [], []
    for number, prompt in enumerate(prompts):
        of_row = range(len(steps) - number)  # rows of unlike length, so that one is padded
        pieces = [judge.encode_completion(steps[k] + ".")[:-1] for k in of_row]
        start = judge.encode_prompt(prompt)
        ids.append([*start, *(token for piece in pieces for token in piece)])
        of_tokens = [label for k in of_row for label in [pad] * (len(pieces[k]) - 1) + [int(labels[k])]]
        wanted.append([pad] * len(start) + of_tokens)
        texts = tuple(steps[k].removeprefix("T: ").strip() + "." for k in of_row)
        row = Stepwise(str(number), prompt, texts, labels[: len(texts)])
        drafts.append(stepwise_draft(judge, row, "T: "))
    width = max(map(len, ids))
    theirs = classifier(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        attention_mask=torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
        labels=torch.tensor([row + [pad] * (width - len(row)) for row in wanted]),
    ).loss
    rows = collate(judge, [draft.pair for draft in drafts])
    logit_K = step_logits(judge, rows, marks(rows, [draft.ends for draft in drafts]))
    label_K = torch.tensor([label for draft in drafts for label in draft.labels]).float()
    ours = torch.nn.functional.binary_cross_entropy_with_logits(logit_K, label_K)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


# -- labels of the start's own solutions


def test_checked_solutions_are_preferred_to_the_view(train, stepwise_data):
    data = dataclasses.replace(stepwise_data, check_steps=lambda problem, text: ())
    run = train(ProcessRewardModel(samples=2, batch_size=8), tokens=500, data=data)
    assert run.ledger.sampled_tokens > 0


@pytest.mark.parametrize(("labels", "rollouts"), [("checked", None), ("monte-carlo", 5)])
def test_solutions_are_labelled_as_the_fields_say(train, stepwise_data, monkeypatch, labels, rollouts):
    data, asked = dataclasses.replace(stepwise_data, check_steps=lambda problem, text: ()), []

    def label(model, batch, data, run, **options):
        asked.append((len(batch), options))
        return labelled_drafts(model, batch, data, run, **options)

    monkeypatch.setattr(module, "labelled_drafts", label)
    train(ProcessRewardModel(labels=labels, samples=3, rollouts=5, batch_size=8), tokens=500, data=data)
    assert asked[0] == (2, {"samples": 3, "rollouts": rollouts})


def test_it_learns_from_rollouts(train, tiny_model, toy_data):
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    method = ProcessRewardModel(labels="monte-carlo", samples=2, rollouts=2, batch_size=6)
    run = train(method, tokens=6000, data=data)
    assert tiny_model.heads[HEAD].weight.any()
    ledger = run.ledger
    assert ledger.sampled_tokens + ledger.prompt_tokens - ledger.reused_tokens > ledger.scored_tokens > 0
    assert any(0 < point["right"] < 1 for point in run.curve)
    assert all(re.fullmatch("steps|loss|right|accuracy|tokens|seconds", name) for name in run.curve[0])


def test_a_batch_without_steps_says_so(train, toy_data, judge, monkeypatch):
    monkeypatch.setattr(module, "labelled_drafts", lambda *_, **__: [Draft(([1, 9], [9, 2]))] * 12)
    data = dataclasses.replace(toy_data, problems=toy_data.problems[:12])
    run = Run(7, budget=50)
    monkeypatch.setattr(Run, "batches", lambda self, items, size: iter([items]))
    ProcessRewardModel(labels="monte-carlo", samples=1).train(judge, data, run)
    assert [point["steps"] for point in run.curve] == [0]
    assert "loss" not in run.curve[0]


def test_without_labels_it_says_what_to_do(train):
    with pytest.raises(ValueError, match="checks no steps and has no stepwise view; set labels=monte-carlo"):
        train(ProcessRewardModel())
