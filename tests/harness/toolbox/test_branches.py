"""Branches: one step longer each time, to their end, within the budget; what is finished is left alone."""

import pytest

from harness import Completion, Run, Scores
from harness.meter import BudgetSpentError
from harness.toolbox import ROOT, carry, charge, goes_on, grow, judge, sample


def scripted(tiny_model, texts, finish="stop", **options):
    """A run whose samples are given, and what it was asked for; `texts` go round."""
    asked = []

    def submit(kind, payload):
        run, model, requests = payload
        asked.append(requests)
        told = iter(texts * 9)
        drawn = []
        for request in requests:
            rows = [next(told) for _ in request.seeds]
            tokens = [tuple(tiny_model.encode_completion(t)[: None if finish == "eos" else -1]) for t in rows]
            drawn.append([Completion(t, k, (-0.5,) * len(k), finish) for t, k in zip(rows, tokens, strict=True)])
            charge(run, model, request, drawn[-1])
        return drawn

    return Run(0, problem_id="p", submit=submit, **options), asked


def test_each_branch_gets_its_children_in_one_request(tiny_model):
    run, asked = scripted(tiny_model, ["a.", "b."])
    [[one, two]] = grow(tiny_model, "1+1?", run, [ROOT], n=2)
    assert (one.text, two.text) == ("a.", "b.")
    [[first, second], [third, fourth]] = grow(tiny_model, "1+1?", run, [one, two], n=2)
    assert [b.text for b in (first, second, third, fourth)] == ["a.a.", "a.b.", "b.a.", "b.b."]
    assert len(asked) == 2
    ids = tuple(tiny_model.encode_prompt("1+1?"))
    assert [request.prompt_ids for request in asked[1]] == [(*ids, *one.tokens), (*ids, *two.tokens)]
    assert [request.begun for request in asked[1]] == [2, 2]
    assert len({seed for requests in asked for request in requests for seed in request.seeds}) == 6
    assert first.tokens == one.tokens * 2
    assert first.logprobs == (-0.5,) * 4
    assert all(map(goes_on, (first, second, third, fourth)))


def test_a_step_ends_with_its_sentence_and_a_whole_solution_with_nothing(tiny_model):
    run, asked = scripted(tiny_model, ["a."])
    grow(tiny_model, "1+1?", run, [ROOT])
    grow(tiny_model, "1+1?", run, [ROOT], whole=True)
    assert [requests[0].stop for requests in asked] == [(".", "\n\n"), ()]


def test_what_is_finished_is_its_own_only_child_and_costs_nothing(tiny_model):
    run, asked = scripted(tiny_model, ["a"], finish="eos")
    [[done]] = grow(tiny_model, "1+1?", run, [ROOT])
    assert (done.finish, done.text, goes_on(done)) == ("eos", "a", False)
    spent = run.spent
    assert grow(tiny_model, "1+1?", run, [done, done], n=3) == [[done], [done]]
    assert (len(asked), run.spent) == (1, spent)


def test_a_branch_that_is_as_long_as_may_be_is_finished(tiny_model):
    run, _ = scripted(tiny_model, ["aa."], max_new_tokens=5)
    [[one]] = grow(tiny_model, "1+1?", run, [ROOT])
    [[two]] = grow(tiny_model, "1+1?", run, [one])
    assert (one.finish, two.finish) == ("stop", "length")


def test_the_budget_is_shared_by_the_rows(tiny_model):
    run, asked = scripted(tiny_model, ["a."], budget=20, counts="sampled_tokens", max_new_tokens=50)
    rows = [b for [b] in grow(tiny_model, "1+1?", run, [ROOT] * 4)]
    assert {request.max_new_tokens for request in asked[0]} == {5}
    assert run.spent == 8
    grow(tiny_model, "1+1?", run, rows)
    assert {request.max_new_tokens for request in asked[1]} == {3}
    run.charge("sampled", 2)
    with pytest.raises(BudgetSpentError, match="no token is left of the budget of 20"):
        grow(tiny_model, "1+1?", run, rows)


def test_steps_and_whole_solutions_are_drawn_by_a_real_model(tiny_model):
    run = Run(3, problem_id="p", max_new_tokens=12)
    for branch in (b for of_one in grow(tiny_model, "1+1?", run, [ROOT, ROOT], n=8) for b in of_one):
        assert len(branch.tokens) == len(branch.logprobs) <= 12
        assert goes_on(branch) == (branch.text.endswith(".") and len(branch.tokens) < 12)
        assert "." not in branch.text[:-1]


def test_a_whole_solution_from_the_root_is_a_plain_sample(tiny_model):
    runs = [Run(3, problem_id="p", max_new_tokens=12) for _ in range(2)]
    [whole] = grow(tiny_model, "1+1?", runs[0], [ROOT], n=3, whole=True)
    assert whole == sample(tiny_model, "1+1?", runs[1], n=3)
    assert runs[0].ledger == runs[1].ledger
    assert not any(map(goes_on, whole))


def test_a_number_of_children_is_needed(tiny_model):
    with pytest.raises(ValueError, match="n must be at least 1"):
        grow(tiny_model, "1+1?", Run(0), [ROOT], n=0)


def test_equal_branches_are_one_object_and_nothing_is_judged_twice():
    asked = []

    def submit(kind, payload):
        asked.append([c.text for c in payload[2]])
        return [Scores(len(c.text) / 10) for c in payload[2]]

    run, known = Run(0, submit=submit), {}
    one, twin, other = (
        Completion(t, k, p, "stop") for t, k, p in (("a", (1,), (0.1,)), ("a", (1,), (0.2,)), ("bb", (2,), ()))
    )
    assert judge(run, "1+1?", [one, twin, other], known) == [(0.1, one), (0.1, one), (0.2, other)]
    third = Completion("ccc", (3,), (), "stop")
    assert judge(run, "1+1?", [twin, third], known) == [(0.1, one), (0.3, third)]
    judge(run, "1+1?", [other], known)
    assert asked == [["a", "bb"], ["ccc"]]


# -- what is left for one answer


def branch(text, finish="stop"):
    return Completion(text, tuple(range(4, 4 + len(text))), (-0.5,) * len(text), finish)


def capped(tiny_model, budget, longest=10, text="a."):
    return scripted(tiny_model, [text], budget=budget, counts="sampled_tokens", max_new_tokens=longest)


@pytest.mark.parametrize(
    ("found", "whole", "branches", "share"),
    [
        (None, False, 1, 10),
        ((), False, 1, 4),  # 14 less the 10 that an answer may take
        ((), False, 2, 2),
        ([branch("a.")], False, 1, 4),
        ([branch("a.", "length")], False, 1, 4),  # cut off, and so no solution
        ([branch("a."), branch("a", "eos")], False, 2, 7),
        ((), True, 1, 10),  # an answer is what it is kept for
        ((), True, 2, 2),
    ],
)
def test_a_search_leaves_the_tokens_of_one_answer_until_it_has_one(tiny_model, found, whole, branches, share):
    run, asked = capped(tiny_model, 14)
    grow(tiny_model, "1+1?", run, [ROOT] * branches, whole=whole, found=found)
    assert {request.max_new_tokens for request in asked[0]} == {share}


def test_what_is_kept_back_is_named_where_nothing_else_is_left(tiny_model):
    run, asked = capped(tiny_model, 11)
    with pytest.raises(BudgetSpentError, match="no token is left of the budget of 11, but for a reserve of 10"):
        grow(tiny_model, "1+1?", run, [ROOT], n=2, found=())
    assert not asked


def test_without_a_budget_nothing_is_kept_back(tiny_model):
    run, asked = capped(tiny_model, None)
    grow(tiny_model, "1+1?", run, [ROOT] * 3, found=())
    assert {request.max_new_tokens for request in asked[0]} == {10}


def test_the_best_branch_is_carried_to_its_end_with_what_is_left(tiny_model):
    run, asked = capped(tiny_model, 7, text="so")
    judged = [(0.3, branch("aa.")), (0.6, branch("b.")), (0.6, branch("c.")), (0.9, branch("d" * 10, "length"))]
    carried = carry(tiny_model, "1+1?", run, judged, 0.7)
    [[request]] = asked
    assert carried.tokens[:2] == judged[1][1].tokens  # a tie goes to the first, and what is as long as may be is none
    assert (len(carried.tokens), len(request.seeds)) == (4, 1)
    assert (request.begun, request.stop, request.max_new_tokens, request.temperature) == (2, (), 7, 0.7)


def test_what_the_budget_cut_off_is_carried_on(tiny_model):
    run, _ = capped(tiny_model, 7, text="so")
    cut = branch("abc", "length")
    assert carry(tiny_model, "1+1?", run, [(0.1, cut)]).tokens[:3] == cut.tokens
    assert run.spent == 2


def test_nothing_is_carried_on_beside_a_solution_or_past_a_limit(tiny_model, make_model):
    run, asked = capped(tiny_model, 7)
    assert carry(tiny_model, "1+1?", run, [(0.9, branch("a.")), (0.1, branch("b", "eos"))]) is None
    assert carry(tiny_model, "1+1?", run, [(0.9, branch("a" * 10, "length"))]) is None
    small = make_model(max_position_embeddings=12)
    assert carry(small, "1+1?", run, [(0.9, branch("abc", "length"))]) is None  # the context was full
    run.charge("sampled", 7)
    assert carry(tiny_model, "1+1?", run, [(0.9, branch("a."))]) is None
    assert not asked


def test_of_nothing_one_plain_sample_is_carried(tiny_model):
    for judged in ([], [(0.0, ROOT)]):
        runs = [Run(3, 5, "sampled_tokens", "p", 12) for _ in range(2)]
        assert carry(tiny_model, "1+1?", runs[0], judged) == sample(tiny_model, "1+1?", runs[1])[0]
        assert runs[0].ledger == runs[1].ledger
        with pytest.raises(BudgetSpentError, match="no token is left of the budget of 0"):
            carry(tiny_model, "1+1?", Run(3, 0, "sampled_tokens", "p", 12), judged)
