"""Process reward model: where steps end, the loss by hand and by the token classifier that TRL trains, both labels."""

import dataclasses
import json
import math
import re
from importlib.resources import files

import pytest
import torch
from transformers import LlamaForTokenClassification

from harness import Completion, Problem, Run, Stepwise
from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu
from harness.toolbox import scalar_head
from harness_rl import process_reward_model as module
from harness_rl.process_reward_model import HEAD, ProcessRewardModel, judged_ends, marked, step_logits

TEXT = "T: 10+12=22. 22/2=11.\nA: 11"


@pytest.fixture
def judge(tiny_model):
    """The random model with a head that is not zero."""
    tiny_model.heads[HEAD] = torch.nn.Linear(tiny_model.size.width, 1)
    torch.nn.init.normal_(tiny_model.heads[HEAD].weight, generator=torch.Generator().manual_seed(1))
    return tiny_model


@pytest.fixture
def stepwise_data(toy_data):
    """Right steps say 7, wrong ones 3: something to learn."""
    rows = [Stepwise(f"s{i}", f"{i}+1?", ("7+0=7.", "7-4=3.")[:: 1 - 2 * (i % 2)], (True, False)) for i in range(16)]
    rows = [dataclasses.replace(row, labels=tuple(text[-2] == "7" for text in row.completions)) for row in rows]
    return dataclasses.replace(toy_data, stepwise=rows)


def completion(model, text, *, eos=True):
    tokens = tuple(model.encode_completion(text))
    return Completion(text, tokens if eos else tokens[:-1], (), "eos" if eos else "length")


def scores(model, *completions, **options):
    return ProcessRewardModel(**options).score(model, "1+1?", completions, Run(0))


# -- where steps end


@pytest.mark.parametrize(
    ("text", "read"),
    [
        (TEXT, ["T: 10+12=22.", "22/2=11."]),
        ("T: 22. 11.\nA: 11", ["T: 22.", "11."]),
        ("T: 32+8 is 40. 40-8 is 32", ["T: 32+8 is 40.", "40-8 is 32"]),
        ("It is 3.5 each! So 7 in all\nwhich is it \n\nA: 7", ["It is 3.5 each!", "So 7 in all", "which is it"]),
        ("A: 11", []),
        ("Alas 3. A: 3.\nA: 4", ["Alas 3.", "A: 3."]),
        ("", []),
        (" \n", []),
    ],
)
def test_steps_end_with_their_sentence_or_line(tiny_model, text, read):
    tokens = tiny_model.encode_completion(text)
    ends = judged_ends(tiny_model, tokens)
    assert [tiny_model.decode(tokens[a:b]).strip() for a, b in zip([0, *ends], ends, strict=False)] == read


def test_every_row_of_the_embedded_world_has_as_many_judged_ends_as_labels():
    model = CausalLM.load(files("harness_world") / "base", Cpu())
    lines = (files("harness_world") / "files" / "stepwise.jsonl").read_text(encoding="utf-8").splitlines()
    for said in map(json.loads, lines[::8]):
        row = Stepwise(said["id"], said["prompt"], tuple(said["completions"]), tuple(said["labels"]))
        (_, tokens), ends, labels = ProcessRewardModel().draft(model, row)
        assert len(ends) == len(labels) == len(row.labels)
        assert all(model.decode([tokens[end - 1]]) == "." for end in ends)


def test_the_marks_follow_a_prompt_that_was_cut_and_leave_out_a_row_that_does_not_fit(judge):
    prompt, tokens = judge.encode_prompt("1" * 120), judge.encode_completion(TEXT)
    rows = marked(judge, [(prompt, tokens), (prompt, [9] * 200)], [judged_ends(judge, tokens), [5]])
    assert rows.shortened == rows.dropped == 1
    assert rows.completion_mask.sum(-1).tolist() == [2, 0]
    [columns] = rows.completion_mask[0].nonzero(as_tuple=True)
    assert [judge.decode(rows.input_ids[0, : c + 1])[-4:] for c in columns] == ["=22.", "=11."]


def test_a_row_whose_steps_end_elsewhere_is_named(judge):
    for steps in (("one. two.", "three."), ("one", "two.")):
        with pytest.raises(ValueError, match="row s7: a step must end with its sentence"):
            ProcessRewardModel().draft(judge, Stepwise("s7", "1+1?", steps, (True,) * len(steps)))


# -- scores


def test_a_step_is_judged_by_the_hidden_state_of_its_last_token(judge):
    ids, tokens = judge.encode_prompt("1+1?"), judge.encode_completion(TEXT)
    hidden_TD = judge.module(torch.tensor([ids + tokens]), output_hidden_states=True).hidden_states[-1][0]
    ends = [len(ids) + len(text) - 1 for text in ("T: 10+12=22.", "T: 10+12=22. 22/2=11.")]  # a token a character
    [score] = scores(judge, completion(judge, TEXT))
    assert score.steps == pytest.approx(judge.heads[HEAD](hidden_TD[ends])[:, 0].sigmoid().tolist(), abs=1e-5)


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
    wanted = {"min": min(one, two), "product": one * two, "last": two, "mean": (one + two) / 2}
    assert score.total == pytest.approx(wanted[aggregate], rel=1e-5)
    assert len(set(wanted.values())) >= 3


def test_no_step_scores_least(judge):
    empty, full = scores(judge, completion(judge, ""), completion(judge, TEXT))
    assert (empty.total, empty.steps) == (0.0, ())
    assert 0 < full.total < 1
    assert scores(judge, completion(judge, "A: 11")) == [empty]  # nothing vouches for a bare answer


@pytest.mark.parametrize(("field", "value"), [("labels", "guessed"), ("aggregate", "median")])
def test_a_choice_that_is_unknown_is_refused(field, value):
    with pytest.raises(ValueError, match=f"knows no '{value}', but"):
        ProcessRewardModel(**{field: value})


# -- training


def test_the_first_loss_is_that_of_a_head_by_hand(train, tiny_model, stepwise_data):
    """One batch holds all rows: - mean log p of right steps and log (1 - p) of wrong ones, over all 32 steps."""
    before = tiny_model.clone()
    run = train(ProcessRewardModel(batch_size=16), tokens=100, data=stepwise_data)
    before.heads[HEAD] = scalar_head(before, Run(7).seed("head"))
    total = 0.0
    for row in stepwise_data.stepwise:
        text = "T: " + " ".join(row.completions)
        [score] = ProcessRewardModel().score(before, row.prompt, [completion(before, text)], Run(0))
        total -= sum(math.log(p if ok else 1 - p) for p, ok in zip(score.steps, row.labels, strict=True))
    [point] = run.curve
    assert point["loss"] == pytest.approx(total / 32, rel=1e-5)
    assert (point["steps"], point["right"]) == (32, 0.5)


def test_an_undecided_head_costs_ln_2(train, stepwise_data, monkeypatch):
    def zeros(model, seed):
        del seed
        head = torch.nn.Linear(model.size.width, 1)
        torch.nn.init.zeros_(head.weight)
        torch.nn.init.zeros_(head.bias)
        return head

    monkeypatch.setattr(module, "scalar_head", zeros)
    run = train(ProcessRewardModel(batch_size=16), tokens=100, data=stepwise_data)
    assert run.curve[0]["loss"] == pytest.approx(math.log(2), rel=1e-6)


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
    run = train(ProcessRewardModel(lr=3e-3, batch_size=8), tokens=20_000, data=stepwise_data)
    assert run.curve[-1]["accuracy"] > 0.9
    assert run.ledger.sampled_tokens == run.ledger.scored_tokens == 0
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
        classifier.score.weight.copy_(torch.cat([torch.zeros(1, judge.size.width), judge.heads[HEAD].weight]))
        classifier.score.bias.copy_(torch.tensor([0.0, float(judge.heads[HEAD].bias)]))
    prompts, pad = ["1+1?", "Tom has 12 and 10"], -100
    ids, wanted, drafts = [], [], []
    for number, prompt in enumerate(prompts):
        of_row = range(len(steps) - number)  # rows of unlike length, so that one is padded
        pieces = [judge.encode_completion(steps[k] + ".")[:-1] for k in of_row]
        start = judge.encode_prompt(prompt)
        ids.append([*start, *(token for piece in pieces for token in piece)])
        marks = [label for k in of_row for label in [pad] * (len(pieces[k]) - 1) + [int(labels[k])]]
        wanted.append([pad] * len(start) + marks)
        texts = tuple(steps[k].removeprefix("T: ").strip() + "." for k in of_row)
        row = Stepwise(str(number), prompt, texts, labels[: len(texts)])
        drafts.append(ProcessRewardModel().draft(judge, row))
    width = max(map(len, ids))
    theirs = classifier(
        input_ids=torch.tensor([row + [0] * (width - len(row)) for row in ids]),
        attention_mask=torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in ids]),
        labels=torch.tensor([row + [pad] * (width - len(row)) for row in wanted]),
    ).loss
    rows = marked(judge, [pair for pair, _, _ in drafts], [ends for _, ends, _ in drafts])
    label_K = torch.tensor([label for _, _, of_row in drafts for label in of_row])
    ours = torch.nn.functional.binary_cross_entropy_with_logits(step_logits(judge, rows), label_K)
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-5)


# -- labels by rollouts


def draws(monkeypatch, judge, texts, verdicts):
    """Let the start answer `texts`, and every rollout from a prefix what `verdicts` says; the requests that it got."""
    asked = []

    def solve(model, prompts, run, ids, n):
        assert n == 1
        return [[completion(judge, text)] for text in texts]

    def go_on(model, requests):
        asked.extend(requests)
        return [[completion(judge, verdicts[k % len(verdicts)]) for k in range(len(r.seeds))] for r in requests]

    monkeypatch.setattr(module, "sample_many", solve)
    monkeypatch.setattr(module, "draw", go_on)
    return asked


def test_a_soft_label_is_the_share_of_rollouts_that_end_right(judge, toy_data, monkeypatch):
    batch = [Problem("a", "10+12?", "11"), Problem("b", "1+1?", "2"), Problem("c", "1?", "1")]
    asked = draws(monkeypatch, judge, [TEXT, "T: 2.\nA: 2", ""], ["\nA: 11", "\nA: 4", "\nA: 11", "\nA: 2"])
    run = Run(3, max_new_tokens=40)
    drafts = ProcessRewardModel(rollouts=4).rolled_out(judge, batch, toy_data, run)
    assert [labels for _, _, labels in drafts] == [[0.5, 0.5], [0.25], []]
    assert [len(ends) for _, ends, _ in drafts] == [2, 1, 0]
    # prefix continuation: the ids of the prompt, then those of the prefix, as they were drawn
    prefixes = ["T: 10+12=22.", "T: 10+12=22. 22/2=11.", "T: 2."]
    prompts = [batch[k].prompt for k in (0, 0, 1)]
    for request, prompt, prefix in zip(asked, prompts, prefixes, strict=True):
        ids = judge.encode_prompt(prompt)
        assert request.prompt_ids == (*ids, *judge.encode_completion(prefix)[:-1])
        assert request.max_new_tokens == 40
        assert request.temperature == 1.0
    seeds = [seed for request in asked for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == 12
    assert run.ledger.sampled_tokens > 0


def test_a_prefix_is_verified_together_with_what_follows_it(judge, toy_data, monkeypatch):
    seen = []
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (seen.append(text), (True, text))[1])
    draws(monkeypatch, judge, ["T: 2.\nA: 2"], ["\nA: 5"])
    ProcessRewardModel(rollouts=1).rolled_out(judge, [Problem("b", "1+1?", "2")], data, Run(3))
    assert seen == ["T: 2.\nA: 5"]


def test_it_learns_from_rollouts_of_a_start_that_stays_as_it_was(train, tiny_model, toy_data, monkeypatch):
    starts, real = [], module.draw

    def watch(model, requests):
        starts.append(model.fingerprint())
        return real(model, requests)

    before = tiny_model.fingerprint()
    monkeypatch.setattr(module, "draw", watch)
    data = dataclasses.replace(toy_data, verify=lambda problem, text: ("7" in text, text))
    run = train(ProcessRewardModel(labels="monte-carlo", rollouts=2, batch_size=6), tokens=6000, data=data)
    assert len(starts) > 2
    assert set(starts) == {before}
    assert tiny_model.fingerprint() != before
    ledger = run.ledger
    assert ledger.sampled_tokens + ledger.prompt_tokens - ledger.reused_tokens > ledger.trained_tokens > 0
    assert any(0 < point["right"] < 1 for point in run.curve)
    assert all(re.fullmatch("steps|loss|right|accuracy|tokens|seconds", name) for name in run.curve[0])


def test_a_batch_without_steps_says_so(train, toy_data, judge, monkeypatch):
    draws(monkeypatch, judge, [""] * 12, ["\nA: 1"])
    data = dataclasses.replace(toy_data, problems=toy_data.problems[:12])
    run = Run(7, budget=50)
    monkeypatch.setattr(Run, "batches", lambda self, items, size: iter([items]))
    ProcessRewardModel(labels="monte-carlo").train(judge, data, run)
    assert [point["steps"] for point in run.curve] == [0]
    assert "loss" not in run.curve[0]


def test_without_labels_it_says_so(train):
    with pytest.raises(ValueError, match="nothing to train on"):
        train(ProcessRewardModel())
