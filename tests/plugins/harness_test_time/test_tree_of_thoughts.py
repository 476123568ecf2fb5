"""Tree of Thoughts: which states are kept, in what order they are entered, what is never valued, and what it costs."""

import pytest

from harness import BudgetSpentError, Run, Scores
from harness.toolbox import ROOT, charge, draw, goes_on, grow
from harness_test_time.tree_of_thoughts import TreeOfThoughts

LETTERS = "abcdefgh"


def ladder(steps):
    """A world in which every solution has `steps` steps, the last of them the answer, and all siblings differ."""

    def speak(said, number):
        return f"A: {number}" if said.count(".") == steps - 1 else f"{LETTERS[number]}. and so on"

    return speak


def rated(**chances):
    """A judge that knows texts by their letters; whatever it does not know is worth 0.5."""

    def judge(text):
        return chances.get(text.replace(".", "").replace("A: ", "_"), 0.5)

    return judge


def open_texts(requests, model):
    return [model.decode(r.prompt_ids[len(r.prompt_ids) - r.begun :]) if r.begun else "" for r in requests]


def submit_for(chance):
    """The real model's samples, charged, and one chance for everything."""

    def submit(kind, payload):
        if kind == "score":
            return [Scores(chance) for _ in payload[2]]
        run, model, requests = payload
        drawn = draw(model, requests)
        for request, of_one in zip(requests, drawn, strict=True):
            charge(run, model, request, of_one)
        return drawn

    return submit


# -- by breadth


def test_the_best_states_of_each_depth_go_on(world, tiny_model):
    made = world(ladder(3), rated(a=0.1, b=0.8, c=0.9, d=0.2, ba=0.7, cb=0.6, bc=0.1))
    made.answer(TreeOfThoughts(branching=4, width=2))
    assert [open_texts(requests, tiny_model) for requests in made.drawn] == [[""], ["c.", "b."], ["b.a.", "c.b."]]
    assert [len(texts) for texts in made.judged] == [4, 8, 8]  # one round each


@pytest.mark.parametrize(("branching", "width", "steps"), [(4, 2, 3), (3, 3, 4), (1, 1, 5), (2, 4, 4)])
def test_calls_are_as_many_as_the_closed_form_says(world, branching, width, steps):
    made = world(ladder(steps), lambda text: 0.5)
    made.answer(TreeOfThoughts(branching=branching, width=width))
    expected, states = 0, 1
    for _ in range(steps):
        expected += states * branching
        states = min(width, states * branching)
    if branching >= width:
        assert expected == branching + (steps - 1) * width * branching
    assert made.run.ledger.model_calls == expected
    assert sum(len(texts) for texts in made.judged) == expected
    assert len(made.drawn) == len(made.judged) == steps


def test_one_state_and_one_step_are_chain_of_thought(tiny_model):
    for evaluate in ("value", "vote"):
        for seed in range(6):
            runs = [Run(seed, problem_id="p", max_new_tokens=30, submit=submit_for(0.5)) for _ in range(2)]
            method = TreeOfThoughts(branching=1, width=1, evaluate=evaluate)
            answer = method.answer(tiny_model, "1+1?", runs[0])
            chain = ROOT
            while goes_on(chain):
                [[chain]] = grow(tiny_model, "1+1?", runs[1], [chain])
            assert (answer.text, answer.completions) == (chain.text, (chain,))
            assert runs[0].ledger == runs[1].ledger


@pytest.mark.parametrize("evaluate", ["value", "vote"])
def test_equal_states_are_valued_and_grown_once(world, evaluate):
    texts = ["a. x", "a. x", "a. x", "b. x"]
    made = world(lambda said, number: "A: 1" if said else texts[number % 4], lambda text: 0.5)
    answer = made.answer(TreeOfThoughts(branching=4, width=4, evaluate=evaluate, votes=1))
    if evaluate == "value":
        assert made.judged == [["a.", "b."], ["a.A: 1", "b.A: 1"]]
        assert [len(requests) for requests in made.drawn] == [1, 2]
    else:
        assert [len(requests) for requests in made.drawn] == [1, 2, 2]
    assert [c.text for c in answer.completions] == ["a.A: 1", "b.A: 1"]


def test_a_finished_state_keeps_its_place_and_is_neither_grown_nor_judged_again(world):
    def speak(said, number):
        if not said:
            return ["A: 7", "a. x", "b. x"][number]
        return f"{LETTERS[number]}. x" if said.count(".") < 3 else f"A: {number}"

    made = world(speak, lambda text: 0.6 if text == "A: 7" else 0.5 if text == "a." else 0.9)
    answer = made.answer(TreeOfThoughts(branching=3, width=2))
    assert sum(texts.count("A: 7") for texts in made.judged) == 1
    # One place is left beside it, although all that came later is worth more.
    assert [len(requests) for requests in made.drawn] == [1, 1, 1, 1]
    assert len(answer.completions) == 2


def test_a_finished_state_that_is_not_among_the_best_has_no_say(world):
    def speak(said, number):
        return "A: 9" if said else ["A: 7", "A: 7", "a. x"][number]

    made = world(speak, lambda text: 0.1 if text == "A: 7" else 0.9)
    answer = made.answer(TreeOfThoughts(branching=3, width=1))
    assert (answer.text, len(answer.completions)) == ("a.A: 9", 1)


def test_leaves_vote_by_their_values(world):
    ends = ["A: 1", "x A: 1", "A: 2", "y A: 2"]
    chances = {"A: 1": 0.9, "x A: 1": 0.1, "A: 2": 0.6, "y A: 2": 0.6}
    made = world(lambda said, number: ends[number], chances.__getitem__)
    answer = made.answer(TreeOfThoughts(branching=4, width=4))
    assert answer.text == "A: 2"  # 1.2 against 1.0; neither the best leaf nor a tie of two to two
    assert len(answer.completions) == 4
    made = world(lambda said, number: ends[number], {**chances, "y A: 2": 0.1}.__getitem__)
    assert made.answer(TreeOfThoughts(branching=4, width=4)).text == "A: 1"


def test_the_text_is_that_of_the_best_with_the_answer(world):
    made = world(lambda said, number: "A: 1" if said or number else "a. x", lambda text: 0.2 if text == "A: 1" else 0.9)
    answer = made.answer(TreeOfThoughts(branching=2, width=2))
    assert [c.text for c in answer.completions] == ["A: 1", "a.A: 1"]
    assert answer.text == "a.A: 1"


@pytest.mark.parametrize("search", ["bfs", "dfs"])
def test_where_all_is_worth_nothing_each_leaf_has_a_vote(world, search):
    made = world(lambda said, number: ["A: 1", "A: 2", "x A: 2"][number], lambda text: 0.0)
    assert made.answer(TreeOfThoughts(search=search, branching=3, width=3, threshold=0.0)).text == "A: 2"


def test_no_value_outlives_its_question(world):
    texts = {"one?": 0.9, "two?": 0.2}
    made = world(lambda said, number: f"A: {number % 2}")
    asked = []
    inner = made.run.submit

    def submit(kind, payload):
        if kind != "score":
            return inner(kind, payload)
        asked.append((payload[1], [c.text for c in payload[2]]))
        return [Scores(texts[payload[1]] if c.text == "A: 0" else 0.5) for c in payload[2]]

    made.run.submit = submit
    method = TreeOfThoughts(branching=2, width=1)
    assert made.answer(method, "one?").text == "A: 0"
    assert made.answer(method, "two?").text == "A: 1"
    assert asked == [(prompt, ["A: 0", "A: 1"]) for prompt in texts]


# -- by depth


def test_the_best_child_comes_first_and_a_pruned_one_never(world, tiny_model):
    chances = rated(a=0.6, b=0.9, c=0.05, ba=0.04, bb=0.03, bc=0.02, ab=0.7, ab_0=0.8, ab_1=0.8, ab_2=0.8)
    made = world(ladder(3), chances)
    answer = made.answer(TreeOfThoughts(search="dfs", branching=3, width=3, threshold=0.1))
    grown = [open_texts(requests, tiny_model) for requests in made.drawn]
    assert grown == [[""], ["b."], ["a."], ["a.b."]]  # b's children are all pruned: back to a, over c
    assert [c.text for c in answer.completions] == ["a.b.A: 0", "a.b.A: 1", "a.b.A: 2"]


def test_by_depth_the_search_ends_with_enough_leaves(world, tiny_model):
    made = world(ladder(2), rated(a=0.9))
    answer = made.answer(TreeOfThoughts(search="dfs", branching=2, width=3))
    assert [open_texts(requests, tiny_model) for requests in made.drawn] == [[""], ["a."], ["b."]]
    assert [c.text for c in answer.completions] == ["a.A: 0", "a.A: 1", "b.A: 0"]
    made = world(ladder(2), rated(a=0.9))
    made.answer(TreeOfThoughts(search="dfs", branching=2, width=2))
    assert len(made.drawn) == 2


def test_by_depth_a_hopeless_question_ends_as_well(world):
    made = world(ladder(9), lambda text: 0.0 if "A" in text else 0.5)
    answer = made.answer(TreeOfThoughts(search="dfs", branching=2))
    assert len(made.drawn) == 100
    assert "A: " in answer.text  # pruned, but finished


# -- vote


def test_states_are_elected_by_the_answers_that_they_lead_to(world, tiny_model):
    def speak(said, number):
        if not said:
            return ["a. x", "b. x", "c. x"][number]
        answers = {"a.": "1121", "b.": "2222", "c.": "1111"}[said[:2]]
        return f"A: {answers[number % 4]}"

    made = world(speak)  # no judge: whoever asks for a score fails
    answer = made.answer(TreeOfThoughts(branching=3, width=1, evaluate="vote", votes=4))
    steps, lookahead, last = made.drawn
    assert [[len(r.seeds) for r in requests] for requests in (steps, lookahead, last)] == [[3], [4, 4, 4], [3]]
    assert {request.stop for request in lookahead} == {()}
    # 7 of 12 end in 1: c always does, a in three of four, b never.
    assert open_texts(last, tiny_model) == ["c."]
    assert answer.text == "c.A: 1"


def test_lookahead_is_paid_for(world):
    bills = []
    for evaluate in ("value", "vote"):
        made = world(ladder(3), lambda text: 0.5)
        made.answer(TreeOfThoughts(branching=2, width=2, evaluate=evaluate, votes=5))
        bills.append(made.run.ledger)
    # 2 and 4 states that go on are looked ahead from, and the 4 finished ones speak for themselves.
    assert bills[1].model_calls - bills[0].model_calls == (2 + 4) * 5
    assert bills[1].sampled_tokens > 2 * bills[0].sampled_tokens


def test_a_finished_state_has_one_voice(world):
    def speak(said, number):
        return f"A: {[1, 1, 1, 2][number % 4]}" if said else ["a. x", "A: 2", "x A: 2"][number]

    made = world(speak)
    answer = made.answer(TreeOfThoughts(branching=3, width=2, evaluate="vote", votes=4))
    assert answer.text == "A: 2"  # two states and a quarter of one, against three quarters of one
    assert [c.text for c in answer.completions] == ["A: 2", "x A: 2"]


def test_what_a_limit_cut_off_casts_no_vote(world, tiny_model):
    def speak(said, number):
        if not said:
            return ["a. x", "b. x"][number]
        return "A: 1" if said == "b." and number % 4 else "9 9 9 9 9 9 9 9"

    made = world(speak, max_new_tokens=12)
    made.answer(TreeOfThoughts(branching=2, width=1, evaluate="vote"))
    assert open_texts(made.drawn[2], tiny_model) == ["b."]


def test_finished_states_answer_where_the_budget_ends_before_the_vote(world):
    made = world(lambda said, number: ["A: 1", "A: 2", "x A: 2", "a. x"][number], budget=36, max_new_tokens=8)
    answer = made.answer(TreeOfThoughts(branching=4, evaluate="vote", votes=20))
    assert (answer.text, len(answer.completions), len(made.drawn)) == ("A: 2", 3, 1)


def test_lookahead_serves_where_the_budget_ends_before_any_leaf(world):
    def speak(said, number):
        return f"{LETTERS[number]}. and" if not said else "so. " + f"A: {1 if said == 'b.' else number % 2}"

    made = world(speak, budget=60, max_new_tokens=20)
    answer = made.answer(TreeOfThoughts(branching=2, width=2, evaluate="vote", votes=2))
    assert answer.text.endswith("A: 1")
    assert 60 - 20 < made.run.spent <= 60  # a lookahead that was finished will do: nothing is kept back any more


@pytest.mark.parametrize("search", ["bfs", "dfs"])
def test_where_the_budget_ends_before_any_solution_the_best_state_is_carried_on(world, search):
    def speak(said, number):
        return f"{LETTERS[number]}. go. A: {number}" if not said else " go. A: 7"

    made = world(speak, rated(a=0.3, b=0.9, c=0.4), budget=29, max_new_tokens=20)
    answer = made.answer(TreeOfThoughts(search=search, branching=3, width=3))
    assert (answer.text, len(answer.completions)) == ("b. go. A: 7", 1)


# -- ends


@pytest.mark.parametrize("search", ["bfs", "dfs"])
@pytest.mark.parametrize("evaluate", ["value", "vote"])
def test_the_budget_is_kept(world, search, evaluate):
    for budget in range(1, 140):
        made = world(ladder(4), lambda text: 0.5, budget=budget)
        method = TreeOfThoughts(search=search, evaluate=evaluate, branching=3, width=2, votes=2)
        answer = made.answer(method)
        assert made.run.spent <= budget
        assert answer.text in [c.text for c in answer.completions]
    with pytest.raises(BudgetSpentError):
        world(ladder(4), lambda text: 0.5, budget=0).answer(method)


def test_what_the_budget_cut_off_is_no_answer_where_one_was_finished(world):
    def speak(said, number):
        return ["A: 5", "a. x"][number] if not said else "9 9 9 9 9 9 9 9 9 9"

    made = world(speak, lambda text: 0.2 if text == "A: 5" else 0.9, budget=12)
    answer = made.answer(TreeOfThoughts(branching=2, width=2))
    assert (answer.text, len(answer.completions)) == ("A: 5", 1)


def test_what_a_limit_cut_off_is_neither_judged_nor_preferred(world):
    def speak(said, number):
        return ["9 9 9 9 9 9 9 9 9 9", "a. x"][number] if not said else "A: 1"

    made = world(speak, lambda text: 0.5, max_new_tokens=10)
    assert made.answer(TreeOfThoughts(branching=2, width=1)).text == "a.A: 1"
    assert made.judged == [["a."], ["a.A: 1"]]


@pytest.mark.parametrize("search", ["bfs", "dfs"])
@pytest.mark.parametrize("evaluate", ["value", "vote"])
def test_without_any_answer_the_best_leaf_is_given(world, search, evaluate):
    texts = ["no", "none", "nothing"]
    made = world(lambda said, number: texts[number], lambda text: 0.9 if text == "none" else 0.5)
    answer = made.answer(TreeOfThoughts(search=search, branching=3, evaluate=evaluate, threshold=0.0))
    assert answer.text == ("none" if evaluate == "value" else "no")


@pytest.mark.parametrize("search", ["bfs", "dfs"])
@pytest.mark.parametrize("evaluate", ["value", "vote"])
def test_a_real_model_is_searched_and_the_same_seed_finds_the_same(tiny_model, search, evaluate):
    def answered():
        run = Run(3, problem_id="p", max_new_tokens=16, submit=submit_for(0.5))
        return TreeOfThoughts(search=search, evaluate=evaluate).answer(tiny_model, "1+1?", run), run.spent

    assert answered() == answered()
    assert answered()[1] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"search": "best"}, "search must be bfs or dfs, not 'best'"),
        ({"branching": 0}, "branching must be at least 1, not 0"),
        ({"width": 0}, "width must be at least 1, not 0"),
        ({"evaluate": "oracle"}, "evaluate must be value or vote, not 'oracle'"),
        ({"votes": 0}, "votes must be at least 1, not 0"),
        ({"threshold": 1.5}, "threshold must be from 0 to 1, not 1.5"),
        ({"temperature": -1.0}, "temperature must be 0 or above, not -1.0"),
        ({"temperature": float("nan")}, "temperature must be 0 or above, not nan"),
    ],
)
def test_a_field_out_of_range_is_named(changes, message):
    with pytest.raises(ValueError, match=f"^tree-of-thoughts: {message}$"):
        TreeOfThoughts(**changes)
