"""Labels of steps: rows of the view read as completions, what the dataset checks, and rollouts by hand."""

import dataclasses
import json
from importlib.resources import files

import pytest

from harness import Completion, Problem, Run, Stepwise
from harness.builtin.causal_lm import CausalLM
from harness.builtin.devices import Cpu
from harness.toolbox import labelled_drafts, step_labels, stepwise_draft

TEXT = "T: 10+12=22. 22/2=11.\nA: 11"


def completion(model, text):
    return Completion(text, tuple(model.encode_completion(text)), (), "eos")


# -- the stepwise view


def test_every_row_of_the_embedded_world_has_as_many_ends_as_labels():
    model = CausalLM.load(files("harness_world") / "base", Cpu())
    lines = (files("harness_world") / "files" / "stepwise.jsonl").read_text(encoding="utf-8").splitlines()
    for said in map(json.loads, lines[::8]):
        row = Stepwise(said["id"], said["prompt"], tuple(said["completions"]), tuple(said["labels"]))
        draft = stepwise_draft(model, row, "T: ")
        assert len(draft.ends) == len(draft.labels) == len(row.labels)
        assert all(model.decode([draft.pair[1][end - 1]]) == "." for end in draft.ends)


def test_a_row_whose_steps_end_elsewhere_is_named(tiny_model):
    for steps in (("one. two.", "three."), ("one", "two.")):
        with pytest.raises(ValueError, match="row s7: a step must end with its sentence"):
            stepwise_draft(tiny_model, Stepwise("s7", "1+1?", steps, (True,) * len(steps)), "T: ")


# -- labels of the model's own solutions


def draws(monkeypatch, tiny_model, texts, verdicts=("",)):
    """Let the model answer `texts`, and every rollout from a prefix what `verdicts` says; the requests that it got."""
    asked = []

    def solve(model, prompts, run, ids, n):
        assert len(texts) == len(prompts) * n
        return [[completion(tiny_model, text) for text in texts[k * n : (k + 1) * n]] for k in range(len(prompts))]

    def go_on(model, requests):
        asked.extend(requests)
        return [[completion(tiny_model, verdicts[k % len(verdicts)]) for k in range(len(r.seeds))] for r in requests]

    monkeypatch.setattr(step_labels, "sample_many", solve)
    monkeypatch.setattr(step_labels, "draw", go_on)
    return asked


def test_the_dataset_checks_the_steps_of_solutions_and_the_verifier_their_answer(tiny_model, toy_data, monkeypatch):
    """A text with other steps than were checked has no label; a bare answer is right or not."""
    told = {TEXT: (True, False), "T: 2.\nA: 2": (True,), "A: 3": (), "T: 1. 2.\nA: 2": (True,)}
    seen = []
    data = dataclasses.replace(toy_data, check_steps=lambda p, text: (seen.append((p.id, text)), told[text])[1])
    asked = draws(monkeypatch, tiny_model, list(told))
    batch = [Problem("a", "10+12?", "11"), Problem("b", "1+1?", "2")]
    drafts = labelled_drafts(tiny_model, batch, data, Run(3), samples=2)
    assert seen == list(zip("aabb", told, strict=True))
    assert asked == []
    assert [(draft.ends, draft.labels) for draft in drafts] == [
        ([12, 21, 27], (True, False, True)),
        ([5, 10], (True, False)),
        ([4], (False,)),
        ((), ()),
    ]
    assert drafts[0].pair == (tiny_model.encode_prompt("10+12?"), tuple(tiny_model.encode_completion(TEXT)))


def test_a_label_is_whether_any_rollout_ends_right(tiny_model, toy_data, monkeypatch):
    batch = [Problem("a", "10+12?", "11"), Problem("b", "1+1?", "2"), Problem("c", "1?", "1")]
    asked = draws(monkeypatch, tiny_model, [TEXT, "T: 3.\nA: 2", ""], ["\nA: 11", "\nA: 4", "\nA: 11", "\nA: 5"])
    run = Run(3, max_new_tokens=40)
    drafts = labelled_drafts(tiny_model, batch, toy_data, run, samples=1, rollouts=4)
    # The answer needs no rollout: it is right where it verifies.
    assert [draft.labels for draft in drafts] == [(True, True, True), (False, True), ()]
    assert [len(draft.ends) for draft in drafts] == [3, 2, 0]
    # prefix continuation: the ids of the prompt, then those of the prefix, as they were drawn
    prefixes = ["T: 10+12=22.", "T: 10+12=22. 22/2=11.", "T: 3."]
    prompts = [batch[k].prompt for k in (0, 0, 1)]
    for request, prompt, prefix in zip(asked, prompts, prefixes, strict=True):
        ids = tiny_model.encode_prompt(prompt)
        assert request.prompt_ids == (*ids, *tiny_model.encode_completion(prefix)[:-1])
        assert request.max_new_tokens == 40
        assert request.temperature == 1.0
    seeds = [seed for request in asked for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == 12
    assert run.ledger.sampled_tokens > 0


def test_a_prefix_is_verified_together_with_what_follows_it(tiny_model, toy_data, monkeypatch):
    seen = []
    data = dataclasses.replace(toy_data, verify=lambda problem, text: (seen.append(text), (True, text))[1])
    draws(monkeypatch, tiny_model, ["T: 2.\nA: 2"], ["\nA: 5"])
    labelled_drafts(tiny_model, [Problem("b", "1+1?", "2")], data, Run(3), samples=1, rollouts=1)
    assert seen == ["T: 2.\nA: 5", "T: 2.\nA: 2"]
