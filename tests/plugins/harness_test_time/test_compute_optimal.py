"""Compute-optimal scaling: dev decides what a bin of questions gets, and the scorer alone tells the bin."""

import dataclasses
import itertools
import random

import pytest

from harness import BudgetSpentError, Completion, Problem, Run, Scores
from harness_test_time import compute_optimal
from harness_test_time.best_of_n import BestOfN
from harness_test_time.compute_optimal import (
    Allocation,
    ComputeOptimal,
    allocate,
    shares_right,
    worth,
)
from harness_test_time.self_consistency import SelfConsistency

TEXTS = ["A: 1", "A: 2", "A: 2", "none", "A: 3", "A: 3", "A: 3", "A: 1"]
SCORES = {"A: 1": 0.9, "A: 2": 0.5, "A: 3": 0.4, "none": 0.95}


def said(text):
    return Completion(text, (1,), (0.0,), "eos")


def one_bin(kind, samples, probe=4):
    return Allocation(probe, 1.0, (), ((kind, samples),))


def sizes(made):
    return [len(request.seeds) for [request] in made.drawn]


# -- one bin and one strategy are the method of that name


@pytest.mark.parametrize("samples", [4, 8, 13])
@pytest.mark.parametrize(
    ("kind", "method"),
    [
        ("best", lambda n: BestOfN(samples=n)),
        ("weighted", lambda n: BestOfN(samples=n, choose="weighted")),
        ("vote", lambda n: SelfConsistency(samples=n, temperature=1.0)),
    ],
)
def test_one_bin_with_one_strategy_is_that_method(world, kind, method, samples):
    texts = random.Random(samples).choices(TEXTS, k=samples)
    mine, other = (world(lambda said, number: texts[number], SCORES.__getitem__) for _ in range(2))
    assert mine.answer(one_bin(kind, samples)) == other.answer(method(samples))
    seeds = [seed for [request] in mine.drawn for seed in request.seeds]
    [[request]] = other.drawn
    assert tuple(seeds) == request.seeds
    assert mine.run.ledger.sampled_tokens == other.run.ledger.sampled_tokens


def test_the_probe_is_part_of_the_samples_and_nothing_is_drawn_or_judged_twice(world):
    made = world(lambda said, number: TEXTS[number], SCORES.__getitem__)
    assert len(made.answer(one_bin("best", 8)).completions) == 8
    assert sizes(made) == [4, 4]
    assert made.judged == [TEXTS[:4], TEXTS[4:]]
    made = world(lambda said, number: TEXTS[number], SCORES.__getitem__)
    made.answer(one_bin("best", 4))
    assert (sizes(made), made.judged) == ([4], [TEXTS[:4]])


def test_what_reads_no_score_is_judged_no_further_than_the_probe(world):
    for rule in ("vote", "likeliest"):
        made = world(lambda said, number: TEXTS[number], SCORES.__getitem__)
        assert made.answer(one_bin(rule, 8)).text == {"vote": "A: 3", "likeliest": "A: 1"}[rule]  # all are as likely
        assert made.judged == [TEXTS[:4]]


# -- bins


def test_the_best_score_of_the_probe_tells_the_bin(world):
    method = Allocation(2, 1.0, (0.3, 0.6), (("best", 8), ("vote", 4), ("best", 2)))
    for scores, drawn in (([0.1, 0.2], 8), ([0.1, 0.3], 4), ([0.59, 0.59], 4), ([0.6, 0.0], 2), ([1.0, 1.0], 2)):
        judged = itertools.chain(scores, itertools.repeat(0.5))
        made = world(lambda said, number: "A: 1", lambda text, judged=judged: next(judged))
        assert len(made.answer(method).completions) == drawn


def test_the_budget_of_a_question_is_kept(world):
    for budget in range(1, 40):
        made = world(lambda said, number: f"A: {number % 3}", lambda text: 0.5, budget=budget, max_new_tokens=6)
        answer = made.answer(one_bin("vote", 8))
        assert made.run.ledger.sampled_tokens <= budget
        assert answer.text.startswith("A: 0"[: len(answer.completions[0].text)])
    with pytest.raises(BudgetSpentError):
        world(lambda said, number: "A: 1", lambda text: 0.5, budget=0).answer(one_bin("vote", 8))


# -- the choice


def accuracies(**right):
    """What strategies named like v4 are right in, of one problem."""
    kinds = {"v": "vote", "w": "weighted", "b": "best"}
    return {(kinds[name[0]], int(name[1:])): share for name, share in right.items()}


V4, V8, B4 = ("vote", 4), ("vote", 8), ("best", 4)


def test_easy_bins_pay_for_hard_ones():
    hard = [accuracies(v2=0, v4=0.1, v8=0.9), accuracies(v2=0, v4=0.2, v8=0.9)]
    easy = [accuracies(v2=0.9, v4=1, v8=1), accuracies(v2=0.9, v4=1, v8=1)]
    strategies = [*hard[0]]
    assert allocate([hard, easy], strategies, 4) == (V4, V4)  # 8 and 2 would be 5 on average
    assert allocate([hard, easy], strategies, 5) == (V8, ("vote", 2))
    assert allocate([hard, easy], strategies, 8) == (V8, V4)  # more than is needed is not spent
    assert allocate([hard, easy * 3], strategies, 4) == (V8, ("vote", 2))


def test_no_allocation_is_better_within_the_budget():
    """Against every combination there is, on problems of chance."""
    generator = random.Random(1)
    strategies = [(kind, n) for n in (1, 2, 4) for kind in ("vote", "best")]
    for _ in range(20):
        bins = [[{s: generator.random() for s in strategies} for _ in range(generator.randint(2, 5))] for _ in range(3)]
        problems = [right for of_bin in bins for right in of_bin]
        single = max(strategies[:4], key=lambda s: sum(right[s] for right in problems))

        def value(plan, bins=bins, single=single):
            pairs = zip(plan, bins, strict=True)
            return sum(worth([right[s] - right[single] for right in of_bin]) for s, of_bin in pairs)

        def mean(plan, bins=bins, problems=problems):
            return sum(n * len(of_bin) for (_, n), of_bin in zip(plan, bins, strict=True)) / len(problems)

        chosen = allocate(bins, strategies, 2)
        assert mean(chosen) <= 2
        able = (plan for plan in itertools.product(strategies, repeat=3) if mean(plan) <= 2)
        assert value(chosen) == pytest.approx(max(map(value, able)))


def test_what_a_gain_is_worth():
    assert worth([0.5, 0.5, 0.5]) == 1.5
    assert worth([1.0, 0.0]) == pytest.approx(0)  # 1 less sqrt(2) standard deviations of sqrt(1/2)
    assert worth([1.0, 0.0, 0.0, 0.0]) == pytest.approx(0)
    assert worth([1.0, 1.0, 1.0, 0.0]) == pytest.approx(2)


def test_a_lucky_bin_does_not_leave_the_best_single_strategy():
    lucky = [accuracies(v4=0.0, b4=1.0), *[accuracies(v4=0.5, b4=0.5)] * 3]
    clear = [accuracies(v4=0.2, b4=0.9), *[accuracies(v4=0.1, b4=0.9)] * 3]
    usual = [accuracies(v4=1.0, b4=0.0)] * 8
    strategies = [V4, B4]
    assert allocate([lucky, usual], strategies, 4) == (V4, V4)
    assert allocate([clear, usual], strategies, 4) == (B4, V4)
    assert allocate([clear[:1], usual], strategies, 4) == (V4, V4)  # one problem shows nothing
    assert allocate([[], usual], strategies, 4) == (V4, V4)


def test_where_strategies_do_not_differ_the_best_single_one_stays():
    """No strategy is better in any bin, only luckier: most bins stay with one of them."""
    generator, stayed = random.Random(0), 0
    strategies = [V4, B4, ("weighted", 4)]
    for _ in range(40):
        bins = [[{s: float(generator.random() < 0.5) for s in strategies} for _ in range(40)] for _ in range(5)]
        chosen = allocate(bins, strategies, 4)
        stayed += chosen.count(max(set(chosen), key=chosen.count))
    assert stayed / 200 > 0.7


# -- dev


def test_shares_are_those_of_every_order():
    samples = [(score, said(text)) for text, score in (("A: 1", 0.9), ("A: 2", 0.5), ("A: 2", 0.3))]
    strategies = [(rule, n) for n in (1, 2, 3) for rule in ("vote", "weighted", "best")]
    orders = [[samples[i] for i in order] for order in [(0, 1, 2), (0, 2, 1), (1, 2, 0), (2, 0, 1)]]
    shares = shares_right(strategies, orders, {"A: 1": True, "A: 2": False})
    assert shares == {
        **accuracies(v1=0.5, w1=0.5, b1=0.5),
        **accuracies(v2=0.5, w2=0.75, b2=0.75),
        **accuracies(v3=0.0, w3=1.0, b3=1.0),
    }


@pytest.fixture
def tryout(tiny_model, toy_data, monkeypatch):
    """`tryout(method, speak, judge, dev)`: what a method finds on dev problems, of samples and scores that are given.

    speak(problem id, number) and judge(text); dev: ids, each a problem whose answer is 1.
    """

    def go(method, speak, judge, dev, seed=0):
        drawn, judged = [], []

        def draw(model, prompts, run, *asked):
            ids, n, _ = asked
            drawn.append((prompts, *asked))
            return [[said(speak(name, number)) for number in range(n)] for name in ids]

        def submit(kind, payload):
            _, prompt, completions = payload
            judged.append((kind, prompt, len(completions)))
            return [Scores(judge(completion.text)) for completion in completions]

        monkeypatch.setattr(compute_optimal, "sample_many", draw)
        data = dataclasses.replace(toy_data, dev=[Problem(name, f"{name}?", "1") for name in dev])
        return method.prepare(tiny_model, data, Run(seed, submit=submit)), drawn, judged

    return go


def world_of_two(name, number):
    """Of an easy problem half the samples are right and look it; of a hard one the eighth alone, and it looks well."""
    if name.startswith("easy"):
        return "good A: 1" if number % 2 == 0 else f"fair A: {number + 1}"
    return "best A: 1" if number == 7 else f"bad A: {2 + number % 2}"


LOOKS = {"good": 0.8, "fair": 0.7, "best": 0.9, "bad": 0.3}
DEV = [f"easy{i}" for i in range(10)] + [f"hard{i}" for i in range(10)]
SMALL = ComputeOptimal(samples=6, probe=4, most=8, bins=2, problems=20)


def look(text):
    return LOOKS[text.split()[0]]


def test_dev_decides_what_a_bin_gets(tryout):
    found, [(prompts, ids, n, temperature)], judged = tryout(SMALL, world_of_two, look, DEV)
    assert found.strategies == (("best", 8), ("vote", 4))
    assert found.edges == pytest.approx((0.55,))  # by the best of the probe alone: 0.3 or 0.8
    assert (found.probe, found.temperature) == (4, 1.0)
    assert sorted(ids) == sorted(DEV)
    assert prompts == [f"{name}?" for name in ids]
    assert (n, temperature) == (8, 1.0)
    assert judged == [("score", prompt, 8) for prompt in prompts]


def test_dev_tries_a_strategy_on_several_orders_that_begin_with_the_probe(tryout, monkeypatch):
    seen = []

    def share(strategies, orders, verdicts):
        seen.append([[int(chain.text[-1]) for _, chain in order] for order in orders])
        return shares_right(strategies, orders, verdicts)

    monkeypatch.setattr(compute_optimal, "shares_right", share)
    for _ in range(2):
        tryout(SMALL, lambda name, number: f"good A: {number}", look, DEV)
    for orders in seen:
        assert all(order[:4] == [0, 1, 2, 3] and sorted(order) == [*range(8)] for order in orders)
        assert len({tuple(order) for order in orders}) > 4
    assert seen[:20] == seen[20:]
    assert seen[0] != seen[1]


def test_a_budget_that_is_too_small_leaves_one_strategy(tryout):
    small = dataclasses.replace(SMALL, samples=5)
    assert tryout(small, world_of_two, look, DEV)[0].strategies == (("vote", 4),) * 2


def test_what_was_found_is_what_answers(tryout, world):
    found, _, _ = tryout(SMALL, world_of_two, look, DEV)
    for name, samples, text in (("easy", 4, "good A: 1"), ("hard", 8, "best A: 1")):
        made = world(lambda said, number, name=name: world_of_two(name, number), look)
        answer = made.answer(found)
        assert (answer.text, len(answer.completions)) == (text, samples)


def test_no_answer_key_tells_the_difficulty(tryout):
    """With the answers of hard problems made right and those of easy ones wrong, the edges are the same."""

    def other(name, number):
        return world_of_two(name, number).replace("A: 1", "A: 99")

    assert tryout(SMALL, world_of_two, look, DEV)[0].edges == tryout(SMALL, other, look, DEV)[0].edges


def test_the_cap_takes_problems_by_the_seed_and_the_same_seed_finds_the_same(tryout):
    few = dataclasses.replace(SMALL, problems=12)
    first, [(_, ids, _, _)], _ = tryout(few, world_of_two, look, DEV)
    again, [(_, same, _, _)], _ = tryout(few, world_of_two, look, DEV)
    _, [(_, others, _, _)], _ = tryout(few, world_of_two, look, DEV, seed=1)
    assert (first, ids) == (again, same)
    assert len(set(ids)) == len(set(others)) == 12
    assert set(ids) != set(others)


def test_scores_below_zero_weigh_no_vote(tryout):
    found, _, _ = tryout(SMALL, world_of_two, lambda text: look(text) - 1, DEV)
    assert found.strategies == (("best", 8), ("vote", 4))


def test_a_dataset_without_dev_problems_is_refused(tiny_model, toy_data):
    dialogue = [Problem("d", "and then?", "1", earlier=("1+1?",))]  # its prompt alone is no question
    for dev in ([], dialogue):
        with pytest.raises(ValueError, match=r"^compute-optimal chooses by dev, and this dataset has no dev problem$"):
            ComputeOptimal().prepare(tiny_model, dataclasses.replace(toy_data, dev=dev), Run(0))


def test_what_dev_costs_is_booked(tiny_model, toy_data):
    run = Run(0, max_new_tokens=5, submit=lambda kind, payload: [Scores(0.5) for _ in payload[2]])
    ComputeOptimal(samples=2, probe=1, most=4, bins=1).prepare(tiny_model, toy_data, run)
    assert 8 <= run.ledger.sampled_tokens <= 40
    assert run.ledger.model_calls == 8  # four samples of each of two problems


def test_it_does_not_answer_unprepared(world):
    with pytest.raises(LookupError, match="compute-optimal answers by what `prepare` finds on dev"):
        world(lambda said, number: "A: 1", lambda text: 0.5).answer(ComputeOptimal())


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 3), ("probe", 0), ("most", 3), ("bins", 0), ("problems", 0), ("temperature", 0.0)],
)
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"^compute-optimal: {field} must be .*, not "):
        ComputeOptimal(**{field: value})
