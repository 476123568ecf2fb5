import pytest

from benchmarks import course
from benchmarks.models import SEED, Setting
from harness import Run
from harness.builtin.devices import Cpu
from harness.toolbox import encode_pairs
from harness_finetuning.sft import SFT
from harness_world import HERE, load_model


@pytest.fixture
def made(tiny_model, toy_data):
    """The toy problems in batches of 5, with their worked solutions."""
    data = course.worked(toy_data)
    lengths = lambda p: course.lengths_of(tiny_model, p.prompt, data.render_target(p, False))  # noqa: E731 - for short
    return data, course.Course.of(data.problems, 5, lengths)


def test_the_method_trains_on_the_batches_of_the_course_and_then_ends(made, tiny_model):
    data, planned = made
    run = course.train(SFT(batch_size=5), tiny_model, data, Run(SEED, budget=planned.budget))
    assert run.ledger.trained_tokens == planned.budget
    assert len(course.losses(run.curve)) == len(planned.batches) == 3
    assert [len(batch) for batch in planned.batches] == [5, 5, 2]
    assert sorted(p.id for p in planned.in_order) == sorted(p.id for p in data.problems)


def test_lengths_are_those_of_the_rows_that_are_trained_on(made, tiny_model):
    data, _ = made
    for problem in data.problems[:3]:
        target = data.render_target(problem, False)
        [length] = encode_pairs(tiny_model, [(problem.prompt, target)]).lengths.tolist()
        assert course.lengths_of(tiny_model, problem.prompt, target) == [length]


def test_padding_is_up_to_the_longest_row_of_each_batch():
    planned = course.Course.of([4, 4], 1, lambda n: [n, 1])  # each batch: 5 tokens in 2 rows of 4
    assert planned.padding == pytest.approx(3 / 8)
    assert planned.budget == 10


def test_every_pass_is_paid_and_rates_are_by_what_is_spent():
    once, twice = (course.Course.of([3, 3, 3], 1, lambda n: [n], passes=passes) for passes in (1, 2))
    assert (once.budget, twice.budget) == (9, 18)
    assert once.factors == twice.factors
    assert once.factors[-1] == pytest.approx(0.1)  # the floor of the schedule, when all is spent


def test_examples_are_spread_over_the_lengths():
    model = load_model("tiny", HERE / "base", Cpu())
    data = course.worked(course.world().training())
    chosen = course.examples(Setting("tiny", model), data, 200)
    lengths = [course.lengths_of(model, p.prompt, data.render_target(p, True))[0] for p in chosen]
    assert len({p.id for p in chosen}) == 200
    assert course.SHORTEST <= min(lengths) < 40
    assert 120 < max(lengths) <= course.LONGEST
    assert sum(length > 80 for length in lengths) == pytest.approx(100, abs=25)


def test_losses_are_compared_to_four_digits():
    assert "equal to 4 digits over 2 steps, 1.0000 to 0.5000" in course.compare([1.0, 0.5], [1.00004, 0.5])
    assert "NOT equal" in course.compare([1.0, 0.5], [1.0, 0.5001])
    assert course.compare([1.0], [1.0, 0.5]) == "1 steps here, 2 there"
