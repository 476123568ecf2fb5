"""Speculative rejection: the worst of the pool go at every step, and with alpha = 0 it is best-of-n."""

import re

import pytest

from harness import BudgetSpentError, Completion, Run, Scores
from harness.toolbox import draw
from harness_test_time.best_of_n import BestOfN
from harness_test_time.speculative_rejection import SpeculativeRejection


def ladder(steps=3):
    """Chain k says its number in each of `steps` steps, and then answers it."""

    def speak(said, number):
        k = said.split(":")[0] if said else number
        whole = f"{k}:" + " go." * steps + f"\nA: {k}"
        return whole[len(said) :]

    return speak


def number(text):
    return int(text.split(":")[0])


def rank(text):
    """The score of a chain of a ladder: its number, in an order that is not that of drawing."""
    return (number(text) * 7 % 16) / 16


def pools(made):
    """Numbers of the chains that were grown, round after round."""
    return [[request.begun for request in requests] for requests in made.drawn]


def test_the_worst_go_at_every_step(world):
    made = world(ladder(), rank)
    answer = made.answer(SpeculativeRejection(samples=16, alpha=0.6))
    assert [sum(len(r.seeds) for r in requests) for requests in made.drawn] == [16, 7, 7, 7]
    survivors = sorted(range(16), key=lambda k: k * 7 % 16)[9:]  # 9/16 and more: .6 of 15/16 is exactly 9/16
    assert [number(c.text) for c in answer.completions] == sorted(survivors)
    assert answer.text.endswith("A: 9")  # 63 % 16 = 15
    assert len(made.judged) == 4
    made = world(ladder(), lambda text: rank(text) / (1 + text.count("go")))  # the scale is the pool's own
    made.answer(SpeculativeRejection(samples=16, alpha=0.6))
    assert [sum(len(r.seeds) for r in requests) for requests in made.drawn] == [16, 7, 7, 7]


def test_the_last_of_a_pool_go_to_their_end_at_once(world):
    made = world(ladder(steps=6), rank)
    made.answer(SpeculativeRejection(samples=4, alpha=0.95))
    [first], *rounds = made.drawn
    assert (len(first.seeds), first.stop != ()) == (4, True)
    assert [(len(requests), requests[0].stop) for requests in rounds] == [(1, ())]
    assert [len(texts) for texts in made.judged] == [4, 1]


def test_ties_stay(world):
    made = world(ladder(), lambda text: 0.5)
    answer = made.answer(SpeculativeRejection(samples=8, alpha=0.5))
    assert [len(requests) for requests in made.drawn] == [1, 8, 8, 8]
    assert answer.text.startswith("0:")  # of equals the first


def test_more_rejection_is_fewer_tokens(world):
    spent = []
    for alpha in (0.0, 0.1, 0.25, 0.5, 0.75, 0.95):
        made = world(ladder(), rank)
        assert made.answer(SpeculativeRejection(alpha=alpha)).text.endswith("A: 9")
        spent.append(made.run.ledger.sampled_tokens)
    assert spent == sorted(spent, reverse=True)
    assert len(set(spent)) == 6


def test_finished_and_unfinished_are_one_pool(world):
    """Two short solutions are finished after a step: the others must keep up, and they cost nothing from then on."""

    def speak(said, k):
        return {0: "0:\nA: 0", 1: "1:\nA: 1"}.get(k, "") if not said and k < 2 else ladder()(said, k)

    made = world(speak, lambda text: {0: 0.1, 1: 0.9, 2: 0.3, 3: 0.5}[number(text)])
    answer = made.answer(SpeculativeRejection(samples=4, alpha=0.6))
    # All but 1 go, 3 as well, which among the unfinished would have been the best: nothing is left to grow.
    assert [len(requests) for requests in made.drawn] == [1]
    assert answer.text == "1:\nA: 1"
    assert [number(c.text) for c in answer.completions] == [0, 1]
    made = world(speak, lambda text: {0: 0.1, 1: 0.9, 2: 0.3, 3: 0.5}[number(text)])
    made.answer(SpeculativeRejection(samples=4, alpha=0.5))
    assert made.judged[1] == ["3: go. go."]  # 1 is not judged again


def test_a_finished_solution_that_was_rejected_may_still_be_the_best(world):
    """All that outdid it fall below it once they go on: it is the best so far."""

    def speak(said, k):
        return "0:\nA: 0" if not said and k == 0 else ladder()(said, k)

    made = world(speak, lambda text: 0.4 if text.startswith("0") else 0.8 if text.count("go") == 1 else 0.2)
    answer = made.answer(SpeculativeRejection(samples=4, alpha=0.3))
    assert answer.text == "0:\nA: 0"
    assert [number(c.text) for c in answer.completions] == [0, 1, 2, 3]


def test_equal_texts_are_grown_each_and_judged_once(world):

    def speak(said, k):
        return "T: so. " if not said else f" {k}.\nA: {k}" if said == "T: so." else f"\nA: {said[7]}"

    made = world(speak, lambda text: 0.5)
    made.answer(SpeculativeRejection(samples=4, alpha=0.5))
    assert [len(requests) for requests in made.drawn] == [1, 4, 4]
    assert [len(texts) for texts in made.judged] == [1, 4, 4]


def test_no_answer_anywhere(world):
    made = world(lambda said, k: "none. no." if not said else " no.", lambda text: 0.5)
    assert made.answer(SpeculativeRejection(samples=4)).text.startswith("none.")


# -- best-of-n


@pytest.mark.parametrize("samples", [1, 4, 16])
def test_without_rejection_it_is_best_of_n(world, samples):
    made, twin = world(ladder(), rank), world(ladder(), rank)
    answer = made.answer(SpeculativeRejection(samples=samples, alpha=0.0))
    assert answer == twin.answer(BestOfN(samples=samples))
    assert (made.drawn, made.judged, made.run.ledger) == (twin.drawn, twin.judged, twin.run.ledger)


@pytest.mark.parametrize("budget", [None, 150])
def test_without_rejection_the_tiny_model_draws_the_same(tiny_model, budget):
    def answer(method):
        def submit(kind, payload):
            if kind == "score":
                return [Scores(len(re.findall(r"\d", c.text)) / 100) for c in payload[2]]
            drawn = draw(payload[1], payload[2])
            run.charge("sampled", sum(len(c.tokens) for row in drawn for c in row))
            return drawn

        run = Run(5, budget, "sampled_tokens", "p", max_new_tokens=20, submit=submit)
        return method.answer(tiny_model, "1+1?", run)

    plain, same = answer(BestOfN()), answer(SpeculativeRejection(alpha=0.0))
    assert same.text == plain.text
    assert (len(plain.completions) == 16) is (budget is None)
    whole = [c for c in plain.completions if c.finish == "eos" or len(c.tokens) == 20]  # all but one the budget cut
    assert [c.tokens for c in same.completions] == [c.tokens for c in whole]
    rejected = answer(SpeculativeRejection(alpha=0.5))
    assert rejected == answer(SpeculativeRejection(alpha=0.5))
    assert rejected.text in [c.text for c in rejected.completions]


# -- budget


@pytest.mark.parametrize("alpha", [0.0, 0.25, 0.5])
def test_a_budget_is_kept_and_the_best_so_far_returned(world, alpha):
    for budget in range(1, 150, 7):
        made = world(ladder(), rank, budget=budget)
        answer = made.answer(SpeculativeRejection(samples=4, alpha=alpha))
        assert made.run.ledger.sampled_tokens <= budget
        whole = [c for c in answer.completions if c.finish == "eos"]
        best = max(whole or answer.completions, key=lambda c: len(answer.completions) > 1 and rank(c.text))
        assert answer.text == best.text
    with pytest.raises(BudgetSpentError):
        world(ladder(), rank, budget=0).answer(SpeculativeRejection(alpha=alpha))


def test_what_the_budget_cut_short_is_no_finished_solution(world):
    def speak(said, k):
        return "0:\nA: 0" if not said and k == 0 else ladder()(said, k)

    made = world(speak, lambda text: 0.3 if text.startswith("0") else 0.9, budget=40)
    answer = made.answer(SpeculativeRejection(samples=3, alpha=0.34))
    assert answer.text == "0:\nA: 0"
    made = world(ladder(), rank, budget=40, max_new_tokens=20)
    answer = made.answer(SpeculativeRejection(samples=4, alpha=0.25))
    assert [number(c.text) for c in answer.completions] == [2]  # the best by then, and carried to its end
    assert answer.text.endswith("A: 2")


def test_who_goes_on_by_hand():
    pool = [Completion(str(k), (), (), "stop") for k in range(10)]
    scores = {branch: int(branch.text) % 5 / 4 for branch in pool}  # 0 .25 .5 .75 1, twice
    for alpha, kept in ((0.0, 10), (0.1, 8), (0.25, 8), (0.26, 6), (0.5, 6), (0.75, 4), (0.76, 2), (0.99, 2)):
        assert len(SpeculativeRejection(alpha=alpha).survivors(pool, scores)) == kept
    below = {branch: score - 2 for branch, score in scores.items()}
    assert len(SpeculativeRejection().survivors(pool, below)) == 2  # the best go on, though no score is above 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 0), ("alpha", -0.1), ("alpha", 1.0), ("alpha", float("nan")), ("temperature", -1.0)],
)
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"^speculative-rejection: {field} must be .*, not "):
        SpeculativeRejection(**{field: value})
