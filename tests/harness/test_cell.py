"""One job: what is recorded, what is shared, and what is refused."""

import dataclasses
import json
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import pytest
import torch

from harness import cell
from harness import registry as registries
from harness.bench import Bench, Desk
from harness.builtin.causal_lm import CausalLM
from harness.builtin.metrics import cost
from harness.cell import Tally, check_views, check_weights, execute, loss_on
from harness.config import RunConfig
from harness.contracts import Answer, Completion, Problem, Scores
from harness.meter import DivergedError, Run
from harness.plan import make_plan
from harness.records import fact, scores_of, wasted
from harness.rows import DataError
from harness.samples import SharedSamples
from harness.store import Store
from harness.toolbox import SampleRequest
from harness.toolbox.prefixes import remembering


def silent(event):
    """Progress that nobody watches."""


@pytest.fixture(scope="module")
def registry():
    return registries.load()


@pytest.fixture(scope="module")
def finished(tmp_path_factory, registry):
    """A small run, job by job in this process: its folder and its plan."""
    folder = tmp_path_factory.mktemp("cells")
    config = RunConfig(
        pipelines=("sft", "base + self-consistency", "base + oracle", "base > random-score + best-of-n"),
        options={
            "self-consistency": {"samples": 4, "temperature": 1.0},
            "oracle": {"samples": 6, "temperature": 1.0},
            "best-of-n": {"samples": 5},
        },
        limit=6,
        train_tokens=1500,
    )
    plan = make_plan(config, registry, "cpu")
    for job in plan.jobs:
        execute({**job.spec, "key": job.key, "store": str(folder)}, silent)
    return folder, plan


@pytest.mark.parametrize(("upper_bound", "right"), [(False, [0.5, 2 / 3]), (True, [1.0, 1.0])])
def test_accuracy_so_far_is_told_while_a_job_answers(upper_bound, right):
    """Every other answer is the twin's, always right; the method's second is wrong, though a sample of it is not."""
    method, twin, events = object(), object(), []
    dataset = SimpleNamespace(verify=lambda problem, text: (text == problem.answer, text))
    desk = SimpleNamespace(
        method=method, bench=SimpleNamespace(dataset=dataset, spec={"row": {"upper_bound": upper_bound}})
    )
    problems = [Problem(str(i), f"{i}?", str(i)) for i in range(3)]
    work = [(of, problem) for problem in problems for of in (method, twin)]
    good = Completion("1", (5,), (0.0,), "eos")
    texts = ["0", "0", "no", "1", "2", "2"]
    done = [
        (Answer(text, (dataclasses.replace(good, text=p.answer),)), Run(0))
        for text, (_, p) in zip(texts, work, strict=True)
    ]
    tally = Tally(desk, work, events.append)
    tally(done[:4])
    tally(done)
    assert [event["progress"] for event in events] == pytest.approx([4 / 6, 1])
    assert [event["accuracy"] for event in events] == pytest.approx(right)


def record(finished, pipeline, kind="answers"):
    folder, _ = finished
    return next(r for r in Store(folder).records(kind) if r["spec"]["pipeline"] == pipeline)


def test_every_job_leaves_its_record(finished):
    folder, plan = finished
    store = Store(folder)
    assert all(job.key in store.keys(job.kind) for job in plan.jobs)


def test_facts_of_a_question(finished):
    facts = record(finished, "sft")
    assert [a["id"] for a in facts["answers"]] == [f"test-{n:04d}" for n in range(1, 7)]
    assert facts["spec"]["start"] == "base"
    assert facts["spec"]["family"] == "fine-tuning"
    assert sum(a["sampled_tokens"] for a in facts["answers"]) == facts["ledger"]["sampled_tokens"] > 0
    [training] = facts["training"]
    assert training["method"] == "sft"
    assert 1500 <= training["ledger"]["trained_tokens"] < 6000
    assert facts["answers"][0]["sampled_correct"] in (True, False)


def test_a_stage_tells_of_rows_that_did_not_fit(finished, tmp_path, monkeypatch):
    _, plan = finished
    job = next(job for job in plan.jobs if job.kind == "stage")
    monkeypatch.setattr(CausalLM, "context", property(lambda _: 40))  # most questions are longer
    execute({**job.spec, "key": job.key, "store": str(tmp_path)}, silent)
    _, facts = Store(tmp_path).stage(job.key)
    assert facts["ledger"]["shortened_rows"] > 0
    assert facts["ledger"]["dropped_rows"] == 0


def test_the_ledger_charges_samples_that_were_shared(finished):
    vote = record(finished, "base + self-consistency(samples=4, temperature=1.0)")
    oracle = record(finished, "base + oracle(samples=6, temperature=1.0)")
    for few, many in zip(vote["answers"], oracle["answers"], strict=True):
        assert len(few["samples"]) == 4
        assert few["samples"] == many["samples"][:4]  # the first four of six
        assert few["sampled_tokens"] < many["sampled_tokens"]
    folder, _ = finished
    groups = [Store(folder).samples(group.name) for group in (folder / "samples").iterdir()]
    assert sorted(map(len, groups)) == [12, 42]  # sft: greedy and one sample; base: greedy and six samples a problem
    for rows in groups:
        assert len({row["id"] for row in rows}) == len(rows)  # nothing was drawn twice


def test_an_upper_bound_counts_any_right_sample(finished):
    facts = record(finished, "base + oracle(samples=6, temperature=1.0)")
    assert facts["spec"]["upper_bound"]
    for answer in facts["answers"]:
        assert answer["correct"] == any(s["correct"] for s in answer["samples"])


def test_what_the_scorer_said_is_kept_beside_what_is_true(finished):
    facts = record(finished, "base > random-score + best-of-n(samples=5)")
    assert facts["spec"]["scorer"] == "random-score"
    samples = [sample for answer in facts["answers"] for sample in answer["samples"]]
    assert len(samples) == 30
    assert len({sample["score"] for sample in samples}) > 20
    for answer in facts["answers"]:
        best = max(answer["samples"], key=lambda sample: sample["score"])
        assert (best["correct"], best["answer"]) == (answer["correct"], answer["extracted"])
    assert {len(sample["right_steps"]) > 0 for sample in samples} == {True, False}  # some have steps
    vote = record(finished, "base + self-consistency(samples=4, temperature=1.0)")
    assert vote["spec"]["scorer"] is None
    assert set(vote["answers"][0]["samples"][0]) == {"correct", "answer"}


def test_equal_samples_keep_what_was_said_of_each():
    """A scorer that tosses coins says other things of equal samples; a search that asks once says the same."""
    one, other = (Completion(text, (1,), (0.0,), "eos") for text in "ab")
    run = Run(0)
    run.judged[one] += [Scores(0.1), Scores(0.2)]
    assert scores_of([one, other, one, one], run) == [Scores(0.1), None, Scores(0.2), Scores(0.2)]


def test_the_single_sample_is_the_first_whole_one_at_temperature_1(finished, bench):
    for pipeline in ("random-score + best-of-n(samples=5)", "self-consistency(samples=4, temperature=1.0)"):
        facts = next(r for r in Store(finished[0]).records("answers") if r["spec"]["pipeline"].endswith(pipeline))
        assert all(a["sampled_correct"] == a["samples"][0]["correct"] for a in facts["answers"])
    desk = Desk.open(bench, {"name": "greedy", "config": {"temperature": 0.0}})
    ids, seeds = tuple(desk.model.encode_prompt("1+1?")), (1, 2)
    plain = SampleRequest(ids, seeds, max_new_tokens=4)
    others = [dataclasses.replace(plain, **change) for change in ({"temperature": 0.5}, {"stop": (".",)}, {"begun": 1})]
    run = Run(0)
    desk.sample([(run, desk.model, others)])
    assert run.single is None
    [[drawn, again]] = desk.sample([(run, desk.model, [plain, dataclasses.replace(plain, seeds=(9,))])])
    assert run.single == drawn[0].text
    assert again


def test_what_only_one_search_can_ask_for_is_not_kept_for_others(bench, tmp_path):
    desk = Desk.open(bench, {"name": "greedy", "config": {"temperature": 0.0}})
    desk.shared = SharedSamples(Store(tmp_path / "shared"), "ab" * 32)
    plain = SampleRequest(tuple(desk.model.encode_prompt("1+1?")), (1,), max_new_tokens=4)
    branch = dataclasses.replace(plain, begun=1)
    [[[one], [two]]] = desk.sample([(Run(0), desk.model, [branch, plain])])
    assert one == two
    assert set(desk.shared.known) == {SharedSamples.identify(plain, 1)}
    desk.sample([(Run(0), desk.model, [dataclasses.replace(branch, seeds=(2,))])])
    assert len(desk.shared.known) == 1


def test_the_time_of_a_scorer_is_that_of_the_judged_samples(finished):
    facts = record(finished, "base > random-score + best-of-n(samples=5)", "timing")
    assert facts["scored"] == 5 * facts["throughput_questions"]  # neither warm-up nor latency
    assert 0 < facts["score_s"] < facts["throughput_s"]
    assert record(finished, "sft", "timing")["scored"] == 0


def test_what_a_stage_wasted_is_the_mean_of_the_batches_that_say_so():
    assert wasted({"curve": [{"wasted": 0.5}, {"loss": 1.0}, {"wasted": 0.0}]}) == 0.25
    assert wasted({"curve": [{"loss": 1.0}]}) is None


def test_timing_holds_every_repeat_and_greedy_beside_it(finished):
    facts = record(finished, "sft", "timing")
    assert len(facts["latency_s"]) == 6
    assert facts["greedy_latency_s"] == facts["latency_s"]  # it is greedy decoding: timed once
    assert facts["throughput_questions"] == 6
    assert facts["machine"]["threads"] == 1
    vote = record(finished, "base + self-consistency(samples=4, temperature=1.0)", "timing")
    assert len(vote["latency_s"]) == len(vote["greedy_latency_s"]) == 6
    assert not set(vote["latency_s"]) & set(vote["greedy_latency_s"])


def test_a_general_loss_is_measured_once_for_the_same_weights_and_data(tiny_model, toy_data, monkeypatch):
    monkeypatch.setattr(cell, "GENERAL_LOSSES", {})
    measured = []
    monkeypatch.setattr(cell, "loss_on", lambda model, texts: measured.append(texts) or float(len(measured)))
    asked = [("a", "world"), ("a", "world"), ("b", "world"), ("a", "money"), ("b", "world")]
    assert [cell.general_loss(tiny_model, *key, toy_data) for key in asked] == [1, 1, 2, 3, 2]
    assert len(measured) == 3


def test_the_same_job_gives_the_same_facts(finished, tmp_path):
    folder, plan = finished
    for job in plan.jobs:
        if job.kind != "timing":
            execute({**job.spec, "key": job.key, "store": str(tmp_path)}, silent)
    for again in Store(tmp_path).records("answers"):
        first = Store(folder).get("answers", again["key"])
        assert again["answers"] == first["answers"]
        assert again["ledger"] == first["ledger"]
    for again in Store(tmp_path).records("stage"):
        first = Store(folder).get("stage", again["key"])
        weights = "model.safetensors"
        assert again["files"][weights] == first["files"][weights]


@pytest.fixture
def bench(tmp_path, registry):
    plan = make_plan(RunConfig(pipelines=("base",), limit=2), registry, "cpu")
    job = next(job for job in plan.jobs if job.kind == "answers")
    return Bench.open({**job.spec, "key": job.key, "store": str(tmp_path)})


def test_no_method_sees_the_reference_answer(bench):
    """Everything that reaches an `answer` verb is searched for the key that was planted."""
    planted = "4242424242"
    problem = dataclasses.replace(bench.problems()[0], answer=planted, rationale=planted, steps=(planted,))
    bench.dataset = dataclasses.replace(bench.dataset, test=[problem])
    seen = []

    class Spy:
        def answer(self, model, prompt, run):
            seen.append(repr((prompt, run.problem_id, run.__dict__, model.name)))
            return Answer("A: 1")

    Desk.open(bench, bench.spec["method"]).answer_alone(Spy(), problem)
    assert seen
    assert planted not in seen[0]


def test_a_budget_that_is_spent_is_an_empty_answer(bench):
    bench.spec["question_tokens"] = 3

    class Greedy:
        def answer(self, model, prompt, run):
            from harness.toolbox import sample

            while True:
                sample(model, prompt, run, temperature=0.0)

    answer, run = Desk.open(bench, bench.spec["method"]).answer_alone(Greedy(), bench.problems()[0])
    assert answer.text == ""
    assert run.ledger.sampled_tokens == 3


def test_a_forward_pass_inside_an_answer_is_counted(bench):
    class Reader:
        def answer(self, model, prompt, run):
            import torch

            with torch.no_grad():
                model.module(input_ids=torch.tensor([model.encode_prompt(prompt)]))
            return Answer("A: 1")

    desk = Desk.open(bench, bench.spec["method"])
    done = desk.answer_all([(Reader(), problem) for problem in bench.problems()], silent)
    lengths = [len(desk.model.encode_prompt(problem.prompt)) for problem in bench.problems()]
    assert [run.ledger.scored_tokens for _, run in done] == lengths


def test_what_was_read_is_kept_while_questions_are_answered_and_no_longer(bench):
    """Side by side they share one memory; alone, each has its own, so that none is quicker for the one before it."""
    found = []

    def note(self, payloads):
        found.append(remembering())
        return [[[Completion("A: 1", (1,), (0.0,), "eos")]] for _ in payloads]

    desk = Desk.open(bench, bench.spec["method"])
    desk.sample = note.__get__(desk)
    first, second = bench.problems()
    desk.answer_all([(desk.method, first), (desk.method, second), (desk.method, first)], silent)
    for problem in (first, second):
        desk.answer_alone(desk.method, problem)
    assert len(found) == 3
    assert None not in found
    assert len(set(map(id, found))) == 3
    assert remembering() is None


def test_a_method_that_changes_the_model_while_answering_fails(bench, monkeypatch):
    real = Bench.method

    class Vandal:
        temperature = 0.5

        def answer(self, model, prompt, run):
            next(model.parameters()).data += 1
            return Answer("A: 1")

    monkeypatch.setattr(Bench, "method", lambda self, part: Vandal() if part["name"] == "greedy" else real(self, part))
    with pytest.raises(ValueError, match="changed the weights"):
        execute(bench.spec, silent)
    assert not list(Path(bench.spec["store"]).glob("cells/*.json"))


# -- what a method does before the first question


@dataclasses.dataclass(frozen=True)
class Looks:
    """Samples one dev problem and has it judged where it can; then it says of what it knows, and how it samples."""

    seen: list
    scored: bool = False
    temperature: float = 0.0
    found: str = ""

    def prepare(self, model, data, run):
        problem = data.dev[0]
        request = SampleRequest(tuple(model.encode_prompt(problem.prompt)), tuple(run.next_draws("d", 2)), 1.0, 8)
        [completions] = run.submit("sample", (run, model, [request]))
        scores = run.score(problem.prompt, completions) if self.scored else []
        self.seen.append((run, data, completions, scores))
        return dataclasses.replace(self, found=problem.id)

    def answer(self, model, prompt, run):
        self.seen.append(self)
        return Answer(f"A: {self.found} {self.temperature}")


@pytest.fixture
def instead(monkeypatch):
    """`instead(method)`: what answers in place of the method that a spec names."""

    def go(method):
        real = Bench.method
        monkeypatch.setattr(
            Bench, "method", lambda self, part: method if part is self.spec["method"] else real(self, part)
        )
        return method

    return go


def test_a_method_prepares_itself_once_and_the_row_pays_for_it_as_for_training(bench, instead):
    method = instead(Looks([]))
    execute(bench.spec, silent)
    (run, data, _, _), *askers = method.seen
    assert run.budget is None
    assert list(data.dev) == list(bench.dataset.training().dev)
    assert [asker.found for asker in askers] == [data.dev[0].id] * 4  # two questions, by the method and by its twin
    assert sorted(asker.temperature for asker in askers) == [0.0, 0.0, 1.0, 1.0]
    [facts] = Store(Path(bench.spec["store"])).records("answers")
    assert {answer["text"] for answer in facts["answers"]} == {f"A: {data.dev[0].id} 0.0"}
    [training] = facts["training"]
    assert (training["role"], training["method"]) == ("preparation", "greedy")
    assert f"found='{data.dev[0].id}'" in training["found"]
    assert training["ledger"] == dataclasses.asdict(run.ledger)
    figures = cost(facts)
    assert figures["train_s"] == training["seconds"] > 0
    assert figures["train_tokens"] == run.ledger.prompt_tokens + run.ledger.sampled_tokens > 0
    assert figures["tokens_per_question"] == 0
    assert not list((Path(bench.spec["store"]) / "samples").glob("*"))  # they are of no use to other methods


def test_a_timed_method_is_prepared_before_the_clock_runs(bench, instead):
    method = instead(Looks([]))
    execute({**bench.spec, "kind": "timing"}, silent)
    prepared, *askers = method.seen
    assert isinstance(prepared, tuple)
    assert all(asker.found for asker in askers)
    assert len(askers) == 2 + 2 + 2  # warm-up, one by one, all at once


@dataclasses.dataclass(frozen=True)
class LooksOnce:
    """Finds something plain, and counts how often."""

    calls: ClassVar[list[str]] = []
    temperature: float = 0.0
    found: tuple[str, ...] = ()

    def prepare(self, model, data, run):
        self.calls.append(data.dev[0].id)
        return dataclasses.replace(self, found=(data.dev[0].id,))

    def answer(self, model, prompt, run):
        assert self.found == (self.calls[0],)
        return Answer("A: 1")


@pytest.mark.parametrize("answered", [True, False])
def test_what_was_found_for_the_answers_is_not_looked_for_again_by_the_timing(tmp_path, registry, instead, answered):
    LooksOnce.calls.clear()
    instead(LooksOnce())
    plan = make_plan(RunConfig(pipelines=("base",), limit=2), registry, "cpu")
    jobs = {job.kind: {**job.spec, "key": job.key, "store": str(tmp_path)} for job in plan.jobs}
    for kind in ("answers", "timing") if answered else ("timing", "answers"):
        execute(jobs[kind], silent)
    assert len(LooksOnce.calls) == (1 if answered else 2)


def test_what_is_prepared_can_be_judged(tmp_path, registry, instead):
    plan = make_plan(RunConfig(pipelines=("base > random-score + best-of-n",), limit=1), registry, "cpu")
    job = next(job for job in plan.jobs if job.kind == "answers" and job.spec["scorer"])
    method = instead(Looks([], scored=True))
    desk = Desk.open(Bench.open({**job.spec, "key": job.key, "store": str(tmp_path)}), job.spec["method"])
    seconds, run = desk.prepare()
    _, _, completions, scores = method.seen[0]
    assert [run.judged[completion] for completion in completions] == [[score] for score in scores]
    assert desk.method.found
    assert desk.scored == 2
    assert seconds > 0


def test_a_method_that_finds_nothing_to_prepare_costs_nothing(bench, instead, monkeypatch):
    monkeypatch.setattr(Looks, "prepare", lambda self, model, data, run: self)
    instead(Looks([]))
    execute(bench.spec, silent)
    [facts] = Store(Path(bench.spec["store"])).records("answers")
    assert facts["training"] == []


def test_a_method_that_changes_the_model_while_it_prepares_fails(bench, instead, monkeypatch):
    def vandal(self, model, data, run):
        next(model.parameters()).data += 1
        return self

    monkeypatch.setattr(Looks, "prepare", vandal)
    instead(Looks([]))
    with pytest.raises(ValueError, match="changed the weights"):
        execute(bench.spec, silent)


def test_the_same_seed_prepares_the_same(bench, instead):
    drawn = []
    for _ in range(2):
        method = instead(Looks([]))
        Desk.open(bench, bench.spec["method"]).prepare()
        drawn.append(method.seen[0][2])
    assert drawn[0] == drawn[1]


def test_no_preparation_sees_a_reference_answer_of_test(bench, instead):
    """All that `prepare` is given is searched for the key that was planted in every test problem."""
    planted = "4242424242"
    keyed = [dataclasses.replace(p, answer=planted, rationale=planted, steps=(planted,)) for p in bench.problems()]
    bench.dataset = dataclasses.replace(bench.dataset, test=keyed)
    method = instead(Looks([]))
    desk = Desk.open(bench, bench.spec["method"])
    desk.prepare()
    run, data, *_ = method.seen[0]
    views = {
        field.name: list(view) for field in dataclasses.fields(data) if not callable(view := getattr(data, field.name))
    }
    assert len(views["problems"]) > len(views["dev"]) > 0
    assert planted not in repr((views, run.__dict__))
    assert not {problem.prompt for problem in keyed} & {p.prompt for p in (*data.problems, *data.dev)}


def test_a_stage_must_change_weights_and_leave_them_finite(tiny_model):
    with pytest.raises(ValueError, match="changed no weight"):
        check_weights(tiny_model, tiny_model.fingerprint(), "m")
    next(tiny_model.parameters()).data[0] = float("nan")
    with pytest.raises(DivergedError, match="not finite"):
        check_weights(tiny_model, "other", "m")


def test_shared_samples_are_drawn_once_and_follow_their_seed(tmp_path, tiny_model, monkeypatch):
    import harness.samples as module

    drawn = []
    real = module.draw

    def count(model, requests):
        drawn.extend(seed for request in requests for seed in request.seeds)
        return real(model, requests)

    monkeypatch.setattr(module, "draw", count)
    request = SampleRequest((1, 5, 6), (11, 12, 13, 14), 1.0, 8)
    shared = SharedSamples(Store(tmp_path), "c0ffee")
    [four] = shared.draw(tiny_model, [request])
    shared.publish()
    again = SharedSamples(Store(tmp_path), "c0ffee")
    [two, other] = again.draw(
        tiny_model, [dataclasses.replace(request, seeds=(11, 12)), dataclasses.replace(request, temperature=0.5)]
    )
    assert two == four[:2]
    assert drawn == [11, 12, 13, 14, 11, 12, 13, 14]  # the second four are of another temperature
    assert other != four
    assert SharedSamples(Store(tmp_path), "beef").known == {}  # another checkpoint shares nothing


def test_a_fact_is_plain_json():
    class Verifier:
        def verify(self, problem, text):
            return text == "A: 1", text

    run = Run(0)
    completions = (Completion("A: 1", (1,), (0.0,), "length"), Completion("x", (1,), (0.0,), "eos"))
    found = fact(Verifier(), Problem("i", "p", "1"), (Answer("A: 1", completions), run), "x", upper_bound=False)
    json.dumps(found, allow_nan=False)
    assert (found["correct"], found["finish"], found["sampled_correct"]) == (True, "length", False)
    assert found["samples"] == [{"correct": True, "answer": "A: 1"}, {"correct": False, "answer": "x"}]
    run.judged[completions[1]].append(Scores(1 / 3, (0.5, 2 / 3)))
    found = fact(Verifier(), Problem("i", "p", "1"), (Answer("A: 1", completions), run), "x", upper_bound=False)
    judged = {"score": 0.333333, "steps": [0.5, 0.666667], "right_steps": []}  # this dataset checks no steps
    assert found["samples"] == [{"correct": True, "answer": "A: 1"}, {"correct": False, "answer": "x", **judged}]


# -- what trainers need, forget and add


@dataclasses.dataclass(frozen=True)
class Echo:
    """Says how many turns it was shown, and what the last one was."""

    name = "echo"

    def answer(self, model, prompt, run):
        turns = (prompt,) if isinstance(prompt, str) else tuple(m["content"] for m in prompt)
        return Answer(f"{len(turns)} {turns[-1]}")


def test_earlier_turns_are_answered_by_the_model_itself(bench):
    desk = Desk.open(bench, bench.spec["method"])
    problem = Problem("d", "and now?", "3", earlier=("first?", "second?"))
    prompt = desk.prompt(Echo(), problem, Run(0))
    assert [turn["content"] for turn in prompt] == ["first?", "1 first?", "second?", "3 second?", "and now?"]
    assert [turn["role"] for turn in prompt] == ["user", "assistant"] * 2 + ["user"]
    assert desk.answer(Echo(), problem, lambda kind, payload: None)[0].text == "5 and now?"
    assert desk.prompt(Echo(), Problem("p", "alone?", "3"), Run(0)) == "alone?"


def test_a_view_that_is_missing_is_named_with_its_columns(bench):
    data = bench.dataset.training()
    without = dataclasses.replace(data, pairs=())
    needy = type("Needy", (), {"name": "dpo", "needs": ("pairs", "scorer")})
    check_views(needy, data, "tiny-world")
    with pytest.raises(DataError, match=r"dpo needs the view 'pairs' \(columns prompt, chosen, rejected\), .*own"):
        check_views(needy, without, "own")


def test_what_a_stage_trained_and_forgot_is_recorded(finished):
    [training] = record(finished, "sft")["training"]
    assert training["role"] == "policy"
    assert training["trainable_parameters"] == 832_896
    before, after = training["general_loss"]
    assert before > 0
    assert after != before


def test_the_loss_of_before_is_at_nobody_s_cost(bench, tiny_model):
    run = Run(0)
    run.watch(tiny_model)
    assert loss_on(tiny_model, [("1+1?", "A: 2")]) > 0
    assert run.spent == 0
    assert loss_on(tiny_model, []) is None


class Shift(torch.nn.Module):
    """Adds a learnt vector to what the first MLP gives back."""

    virtual_tokens = 0

    def __init__(self, width):
        super().__init__()
        self.shift = torch.nn.Parameter(torch.ones(width))

    def hook(self, module, args, output):
        return output + self.shift

    def save(self, folder):
        folder.mkdir()
        (folder / "adapter_config.json").write_text("{}", encoding="utf-8")


def test_the_adapter_of_a_checkpoint_is_attached_by_the_last_method_that_can(bench, monkeypatch):
    attached = []

    class Adapts:
        def attach(self, model, folder):
            attached.append(folder)

    base = bench.model(None)
    base.adapter = Shift(base.size.width)
    facts = {"kind": "stage", "schema": 1, "config": {}, "seconds": 1.0}
    first = {**facts, "key": "a" * 64, "method": "adapts", "start": None}
    second = {**facts, "key": "b" * 64, "method": "other", "start": "a" * 64}
    for stage in (first, second):
        bench.store.publish_stage(stage["key"], base.save, stage)
    monkeypatch.setattr(type(bench), "method", lambda self, part: Adapts() if part["name"] == "adapts" else object())
    bench.model("b" * 64)
    assert [folder.name for folder in attached] == ["adapter"]
    orphan = {**facts, "key": "c" * 64, "method": "other", "start": None}
    bench.store.publish_stage(orphan["key"], base.save, orphan)
    with pytest.raises(FileNotFoundError, match="no stage up to other knows the adapter"):
        bench.model("c" * 64)
