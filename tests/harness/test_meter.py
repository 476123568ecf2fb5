"""Runs: seeds, budgets, batches, counting."""

import copy
import math

import pytest
import torch

from harness.contracts import Completion, ModelSize, Scores
from harness.meter import DivergedError, Ledger, Run, derive_seed, forward_flops
from harness.paying import uncounted


class FakeModel:
    """What the meter needs of a model."""

    size = ModelSize(parameters=10, layers=2, width=4)
    adapter = None

    def __init__(self):
        self.module = Probe()

    def parameters(self):
        return self.module.parameters()


class Probe(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(7))
        self.frozen = torch.nn.Parameter(torch.ones(3), requires_grad=False)

    def forward(self, input_ids, attention_mask=None):
        return {"logits": input_ids.float() @ torch.ones(input_ids.shape[1], 7) * self.weight}


def test_seeds_depend_on_their_parts_alone():
    assert derive_seed(1, "a", 2) == derive_seed(1, "a", 2)
    assert len({derive_seed(1, "a", 2), derive_seed(1, "a", 3), derive_seed(2, "a", 2), derive_seed(1, "a2")}) == 4
    assert 0 <= derive_seed("x") < 2**63


def test_sample_seeds_do_not_depend_on_who_draws_how_many():
    assert Run(5).next_draws("p", 4) == Run(5).next_draws("p", 16)[:4]
    one = Run(5)
    assert one.next_draws("p", 2) + one.next_draws("p", 2) == Run(5).next_draws("p", 4)
    assert Run(5).next_draws("p", 1) != Run(5).next_draws("q", 1)
    assert Run(5).next_draws("p", 1) != Run(6).next_draws("p", 1)


def test_forward_passes_are_counted_without_help():
    model, run = FakeModel(), Run(0)
    run.watch(model)
    ids = torch.ones(2, 5, dtype=torch.long)
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    model.module(input_ids=ids, attention_mask=mask)
    with torch.no_grad():
        model.module(ids)
    assert (run.ledger.trained_tokens, run.ledger.scored_tokens, run.ledger.model_calls) == (8, 10, 2)
    trained = 2 * forward_flops(model.size, 8, 25 + 9) + 2 * 7 * 8  # activations' and weights' gradients
    assert run.ledger.flops == trained + forward_flops(model.size, 10, 50)
    run.close()
    model.module(ids)
    assert run.ledger.model_calls == 2


def test_the_sampler_may_count_for_itself():
    model, run = FakeModel(), Run(0)
    run.watch(model)
    with uncounted():
        model.module(torch.ones(1, 3, dtype=torch.long))
    assert run.ledger == Ledger()


def test_who_pays_is_charged_for_what_another_watches():
    model, watcher, payer = FakeModel(), Run(0), Run(0)
    watcher.watch(model)
    with payer.pays():
        model.module(torch.ones(1, 3, dtype=torch.long))
    assert (watcher.ledger.trained_tokens, payer.ledger.trained_tokens) == (0, 3)


def test_a_budget_ends_the_batches():
    run = Run(0, budget=100)
    seen = []
    for batch in run.batches(list(range(10)), 4):
        seen.append(batch)
        run.charge("trained", 30)
    assert len(seen) == 4  # 30, 60, 90, then 120: the batch that crosses the line is the last
    assert run.left == 0
    assert run.progress == 1.0
    assert sorted(seen[0] + seen[1] + seen[2]) == list(range(10))


def test_batches_are_shuffled_by_the_seed_alone():
    def order(seed):
        return [list(batch) for batch in Run(seed).batches(list(range(20)), 5, epochs=2)]

    assert order(1) == order(1)
    assert order(1) != order(2)
    assert order(1)[:4] != order(1)[4:]


def test_a_loop_that_would_never_end_is_refused():
    with pytest.raises(ValueError, match="nothing to train on"):
        next(Run(0, budget=1).batches([], 2))
    with pytest.raises(ValueError, match="neither a budget"):
        next(Run(0).batches([1], 2))
    with pytest.raises(RuntimeError, match="without any forward pass"):
        list(Run(0, budget=5).batches([1, 2, 3], 1))


def test_a_batch_may_teach_nothing_but_an_epoch_may_not():
    run, seen = Run(0, budget=100), []

    def learn():
        for [item] in run.batches(list(range(4)), 1):
            seen.append(item)
            run.charge("scored", 1000, other=True)  # a teacher that is never right again
            run.charge("trained", 10 if len(seen) == 2 else 0)

    with pytest.raises(RuntimeError, match="without any forward pass"):
        learn()
    assert len(seen) == 8  # the first epoch taught something


def test_a_question_counts_sampled_tokens_only():
    run = Run(0, budget=10, counts="sampled_tokens")
    run.charge("prompt", 100)
    assert run.left == 10
    run.charge("sampled", 4)
    assert run.left == 6
    assert Run(0).left == math.inf


def test_numbers_that_are_not_finite_end_the_training():
    run = Run(0)
    run.log(loss=1.0)
    with pytest.raises(DivergedError, match="loss is nan"):
        run.log(loss=math.nan)
    assert [point["loss"] for point in run.curve] == [1.0]


def test_ledgers_add_up():
    total = Ledger(prompt_tokens=1, sampled_tokens=2, scored_tokens=3, trained_tokens=4, other_tokens=3, model_calls=5)
    total.add(total)
    assert total == Ledger(2, 4, 6, 8, 0, 6, 10)
    assert (total.total_tokens, total.own_tokens) == (20, 14)


def test_what_another_model_reads_is_counted_beside_the_budget():
    student, teacher, run = FakeModel(), FakeModel(), Run(0, budget=10)
    run.open_model = {"teacher": teacher}.__getitem__
    run.watch(student)
    assert run.model("teacher") is teacher
    assert (run.is_other(teacher), run.is_other(student)) == (True, False)
    ids = torch.ones(1, 6, dtype=torch.long)
    for module in (student.module, teacher.module, copy.deepcopy(teacher.module)):
        module(ids)
    assert (run.ledger.trained_tokens, run.ledger.scored_tokens) == (6, 12)
    assert (run.ledger.total_tokens, run.ledger.other_tokens, run.ledger.own_tokens) == (18, 12, 6)
    assert (run.spent, run.left) == (6, 4)
    forward = forward_flops(student.size, 6, 36)
    assert run.ledger.flops == 2 * forward + 2 * 7 * 6 + 2 * forward  # the student's training, and two who read


def test_a_run_that_can_open_no_model_says_so():
    with pytest.raises(LookupError, match="cannot open the model 'teacher'"):
        Run(0).model("teacher")


def test_a_run_without_a_scorer_says_so():
    with pytest.raises(LookupError, match="no scorer"):
        Run(0).score("p", [])


# -- what a scorer says


def judged(*totals, steps=()):
    said = [Scores(total, steps) for total in totals]
    run = Run(0, problem_id="p7", submit=lambda kind, payload: said)
    asked = [Completion(text, (number,), (0.0,), "eos") for number, text in enumerate("ab")]
    return run, asked


def test_scores_are_kept_by_completion():
    run, asked = judged(0.25, 0.75)
    assert run.score("1+1?", asked) == [Scores(0.25), Scores(0.75)]
    assert run.judged == {asked[0]: [Scores(0.25)], asked[1]: [Scores(0.75)]}
    run.score("1+1?", asked)
    assert run.judged[asked[1]] == [Scores(0.75)] * 2


@pytest.mark.parametrize(
    ("totals", "steps"), [((0.5,), ()), ((0.5, 0.5, 0.5), ()), ((0.5, math.nan), ()), ((0.5, math.inf), ()),
                          ((0.5, 0.5), (math.nan,)), ((), ())],
)  # fmt: skip
def test_a_scorer_that_does_not_say_a_number_of_each_is_stopped_with_the_problem(totals, steps):
    run, asked = judged(*totals, steps=steps)
    with pytest.raises(ValueError, match="problem p7: of 2 completions the scorer said"):
        run.score("1+1?", asked)
    assert run.judged == {}
