"""MCTS: whole descents, whole paths told, the best arm visited most, and an answer by vote."""

import math
import random

import pytest

from harness import BudgetSpentError, Completion, Run, Scores
from harness.toolbox import ROOT, charge, draw
from harness_test_time.mcts import MCTS, Node, Tree

LETTERS = "abcd"


def ladder(steps):
    """A world in which every solution has `steps` steps, the last of them the answer, and all siblings differ."""

    def speak(said, number):
        rest = steps - said.count(".") - 1
        return f"{LETTERS[number % 4]}. " * rest + f"A: {number}"

    return speak


def endless(said, number):
    """Step by step it never ends, while a whole solution is short."""
    return f"{LETTERS[number % 4]}. A: {number}"


def searched(made, method, model, prompt="1+1?"):
    tree = Tree(model, prompt, made.run)
    method.search(tree)
    return tree


def nodes(node):
    return [node, *(below for child in node.children for below in nodes(child))]


def step(logprobs, text):
    return Completion(text, tuple(range(len(logprobs))), tuple(logprobs), "stop")


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


# -- selection


@pytest.fixture
def parent():
    """N = 9 and Q = 0.6, with children that were visited 4, 4 and 0 times."""
    children = [Node(ROOT, 0.5, 4, 2.0), Node(ROOT, 0.2, 4, 3.0), Node(ROOT, 0.3)]
    return Node(ROOT, 1.0, 9, 5.4, children)


@pytest.mark.parametrize(
    ("select", "exploration", "place"),
    [
        ("puct", 0.0, 1),  # 0.5, 0.75, 0.6
        ("puct", 0.2, 2),  # 0.56, 0.774, 0.78; not so if what is unknown were worth 0
        ("puct", 0.1, 1),  # 0.53, 0.762, 0.69; not so if it were tried whatever the rest is worth
        ("uct", 0.0, 1),
        ("uct", 0.3, 2),  # 0.722, 0.972, 1.045
        ("uct", 0.1, 1),  # 0.574, 0.824, 0.748
    ],
)
def test_bounds_by_hand(parent, select, exploration, place):
    best = MCTS(select=select, exploration=exploration).best_child(parent)
    assert parent.children.index(best) == place


def test_the_prior_counts_in_puct_alone(parent):
    for child in parent.children:
        child.visits, child.worth = 3, 1.5
    assert MCTS().best_child(parent) is parent.children[0]
    parent.children[0].prior = 0.1
    assert MCTS().best_child(parent) is parent.children[2]
    assert MCTS(select="uct").best_child(parent) is parent.children[0]


def test_priors_are_of_the_step_alone_and_length_does_not_decide():
    node = Node(step([-3.0, -4.0], "so."))
    node.expand([step([-3.0, -4.0, *[-0.1] * 10], "so. long."), step([-3.0, -4.0, -0.5], "so. short.")])
    long, short = (child.prior for child in node.children)
    assert long / short == pytest.approx(math.exp(0.4))
    assert long + short == pytest.approx(1)


def test_the_first_step_into_an_unknown_tree_is_the_likeliest():
    root = Node(ROOT)
    root.expand([step([-2.0], "a."), step([-1.0], "b."), step([-3.0], "c.")])
    assert MCTS().best_child(root) is root.children[1]


def test_equal_steps_are_one_child(world, tiny_model):
    made = world(lambda said, number: "a. and" if number < 3 else "b. and", lambda text: 0.5)
    tree = searched(made, MCTS(simulations=4, evaluate="score"), tiny_model)
    assert [child.branch.text for child in tree.root.children] == ["a.", "b."]
    assert [child.prior for child in tree.root.children] == [0.5, 0.5]


# -- the search


@pytest.mark.parametrize("select", ["puct", "uct"])
@pytest.mark.parametrize("evaluate", ["rollout", "score"])
def test_the_best_arm_is_visited_most(world, tiny_model, select, evaluate):
    right = {"a": 0.3, "b": 0.4, "c": 0.8, "d": 0.2}
    made = world(endless, lambda text: float(random.Random(text).random() < right[text[0]]), max_new_tokens=900)
    method = MCTS(simulations=200, select=select, evaluate=evaluate, exploration=0.5)
    tree = searched(made, method, tiny_model)
    visits = {child.branch.text: child.visits for child in tree.root.children}
    assert visits["c."] > 100, visits
    assert min(visits.values()) >= 1
    assert tree.root.children[2].worth / visits["c."] == pytest.approx(0.8, abs=0.1)


@pytest.mark.parametrize("select", ["puct", "uct"])
@pytest.mark.parametrize("evaluate", ["rollout", "score"])
@pytest.mark.parametrize("steps", [3, 99])
def test_visits_add_up(world, tiny_model, select, evaluate, steps):
    made = world(ladder(steps), lambda text: random.Random(text).random(), max_new_tokens=900)
    tree = searched(made, MCTS(simulations=40, select=select, evaluate=evaluate, branching=3), tiny_model)
    assert tree.root.visits == sum(child.visits for child in tree.root.children) == 40
    inner = [node for node in nodes(tree.root)[1:] if node.children]
    assert len(inner) > 5
    assert all(node.visits == 1 + sum(child.visits for child in node.children) for node in inner)


def test_a_value_is_told_to_the_whole_path(world, tiny_model):
    chances = {1: 0.9, 2: 0.5, 3: 0.1}
    made = world(endless, lambda text: chances[text.count(".")])
    tree = searched(made, MCTS(simulations=3, branching=1, evaluate="score"), tiny_model)
    told = [(node.visits, round(node.worth, 9)) for node in nodes(tree.root)]
    assert told == [(3, 1.5), (3, 1.5), (2, 0.6), (1, 0.1)]


def test_a_descent_ends_at_a_leaf_and_nothing_is_expanded_twice(world, tiny_model):
    made = world(endless, lambda text: 0.9 if set(text) <= set("a.A: 0") else 0.1, max_new_tokens=200)
    tree = searched(made, MCTS(simulations=24, branching=2, evaluate="score", exploration=0.1), tiny_model)
    grown = [request for [request] in made.drawn]
    assert len({request.prompt_ids for request in grown}) == len(grown)
    assert {len(request.seeds) for request in grown} == {2}  # all steps of an expansion in one request
    assert max(node.branch.text.count(".") for node in nodes(tree.root)) > 10
    assert all(len(texts) == 1 for texts in made.judged)


def test_a_simulation_costs_an_expansion_and_a_solution_at_most(world):
    made = world(ladder(9), lambda text: 0.5, max_new_tokens=200)
    answer = made.answer(MCTS(simulations=10, branching=3))
    steps, whole = ([r for [r] in made.drawn if bool(r.stop) is stops] for stops in (True, False))
    assert len(whole) == 10 == len(answer.completions)
    assert len(steps) <= 10
    assert made.run.ledger.model_calls == 3 * len(steps) + 10
    assert made.judged == [[c.text] for c in answer.completions]


def test_the_search_ends_with_the_tree(world, tiny_model):
    for evaluate in ("rollout", "score"):
        made = world(ladder(2), lambda text: 0.5)
        tree = searched(made, MCTS(simulations=1000, branching=2, evaluate=evaluate), tiny_model)
        assert tree.root.visits < 20
        assert tree.root.exhausted
        assert all(node.visits for node in nodes(tree.root))
        assert len(nodes(tree.root)) == 7
    made = world(ladder(2), lambda text: 0.5)
    assert searched(made, MCTS(branching=1), tiny_model).root.visits == 2  # at once: a step, and the answer behind it


def test_a_finished_leaf_is_visited_again_at_no_cost(world, tiny_model):
    def speak(said, number):
        return "A: 7" if not said and number == 0 else endless(said, number)

    made = world(speak, lambda text: 0.9 if text == "A: 7" else 0.1, max_new_tokens=200)
    tree = searched(made, MCTS(simulations=30, branching=2, evaluate="score", exploration=0.3), tiny_model)
    finished = tree.root.children[0]
    assert finished.visits > 15
    assert finished.worth == pytest.approx(0.9 * finished.visits)
    assert sum(texts.count("A: 7") for texts in made.judged) == 1
    assert len(made.drawn) < 15


@pytest.mark.parametrize("evaluate", ["rollout", "score"])
def test_a_dead_end_is_worth_nothing_and_is_told_as_well(world, tiny_model, evaluate):
    def speak(said, number):
        return "9 9 9 9 9 9 9 9 9 9 9" if not said and number == 0 else endless(said, number)

    made = world(speak, lambda text: 0.8, max_new_tokens=20)
    tree = searched(made, MCTS(simulations=6, branching=2, evaluate=evaluate), tiny_model)
    dead = tree.root.children[0]
    assert (dead.branch.finish, dead.worth) == ("length", 0)
    assert dead.visits >= 1
    assert tree.root.visits == 6
    assert not any(text.startswith("9") for texts in made.judged for text in texts)


# -- the answer


def test_solutions_vote_by_their_chances(world):
    ends = ["A: 1", "x A: 1", "A: 2", "y A: 2"]
    chances = {"A: 1": 0.9, "x A: 1": 0.1, "A: 2": 0.6, "y A: 2": 0.6}
    made = world(lambda said, number: ends[number], chances.__getitem__)
    answer = made.answer(MCTS(simulations=1))
    assert [c.text for c in answer.completions] == ends
    assert answer.text == "A: 2"  # 1.2 against 1.0, though "A: 1" alone was visited
    assert made.judged == [["A: 1"], ["x A: 1", "A: 2", "y A: 2"]]  # what was not visited, in one round
    made = world(lambda said, number: ends[number], {**chances, "y A: 2": 0.1}.__getitem__)
    assert made.answer(MCTS(simulations=9)).text == "A: 1"  # and not the last one


def test_equal_solutions_are_a_vote_each_and_judged_once(world):
    ends = ["A: 1", "A: 1", "A: 1", "A: 2"]
    made = world(lambda said, number: ends[number], {"A: 1": 0.3, "A: 2": 0.8}.__getitem__)
    answer = made.answer(MCTS(simulations=9))
    assert (answer.text, len(answer.completions)) == ("A: 1", 4)
    assert sorted(text for texts in made.judged for text in texts) == ["A: 1", "A: 2"]


def test_what_a_limit_cut_off_is_no_solution(world):
    made = world(lambda said, number: "A: 5" if number == 2 else "9 9 9 9 9 9 9 9", lambda text: 0.1, max_new_tokens=12)
    answer = made.answer(MCTS())
    assert (answer.text, len(answer.completions)) == ("A: 5", 1)
    assert made.judged == [["A: 5"]]


def test_where_all_is_worth_nothing_each_solution_has_a_vote(world):
    made = world(lambda said, number: ["A: 1", "A: 2", "x A: 2", "A: 3"][number], lambda text: 0.0)
    assert made.answer(MCTS()).text == "A: 2"


def test_where_nothing_is_finished_the_most_visited_branch_is(world):
    made = world(endless, lambda text: 0.9 if text[0] == "b" else 0.1, max_new_tokens=200)
    answer = made.answer(MCTS(simulations=12, evaluate="score", exploration=0.2))
    assert answer.text.startswith("b.")
    assert answer.text.count(".") > 3
    assert answer.completions[0].finish == "eos"


def test_where_the_budget_ends_before_any_solution_the_most_visited_branch_is_carried_on(world):
    made = world(ladder(5), lambda text: 0.5, budget=28, max_new_tokens=20)
    answer = made.answer(MCTS(evaluate="score", branching=4))
    assert answer.text == "a.a. a. a. A: 0"
    assert made.run.spent == 8 + 14


def test_where_the_budget_allows_no_end_it_is_left_unfinished(world):
    made = world(ladder(5), lambda text: 0.5, budget=8)
    answer = made.answer(MCTS(evaluate="score", branching=4))
    assert (answer.text, made.run.spent) == ("a. a. a.", 8)  # one plain sample, as far as the tokens go


@pytest.mark.parametrize("evaluate", ["rollout", "score"])
def test_the_budget_is_kept(world, evaluate):
    for budget in range(1, 120):
        made = world(ladder(4), lambda text: 0.5, budget=budget)
        method = MCTS(evaluate=evaluate, branching=3)
        answer = made.answer(method)
        assert made.run.spent <= budget
        assert answer.text in [c.text for c in answer.completions]
    with pytest.raises(BudgetSpentError):
        world(ladder(4), lambda text: 0.5, budget=0).answer(MCTS(evaluate=evaluate))


@pytest.mark.parametrize("evaluate", ["rollout", "score"])
def test_without_any_answer_the_best_solution_is_given(world, evaluate):
    texts = ["no", "none", "nothing", "nil"]
    made = world(lambda said, number: texts[number], lambda text: 0.9 if text == "none" else 0.5)
    assert made.answer(MCTS(evaluate=evaluate)).text == "none"


def test_each_question_has_a_tree_of_its_own(world):
    chances = {"one?": 0.9, "two?": 0.2}
    made = world(lambda said, number: f"A: {number % 2}")
    asked = []
    inner = made.run.submit

    def submit(kind, payload):
        if kind != "score":
            return inner(kind, payload)
        asked.append((payload[1], [c.text for c in payload[2]]))
        return [Scores(chances[payload[1]] if c.text == "A: 0" else 0.5) for c in payload[2]]

    made.run.submit = submit
    method = MCTS(branching=2)
    assert made.answer(method, "one?").text == "A: 0"
    assert made.answer(method, "two?").text == "A: 1"
    assert [prompt for prompt, texts in asked for _ in texts] == ["one?", "one?", "two?", "two?"]


@pytest.mark.parametrize("select", ["puct", "uct"])
@pytest.mark.parametrize("evaluate", ["rollout", "score"])
def test_a_real_model_is_searched_and_the_same_seed_finds_the_same(tiny_model, select, evaluate):
    def answered():
        run = Run(3, problem_id="p", max_new_tokens=16, submit=submit_for(0.5))
        return MCTS(select=select, evaluate=evaluate).answer(tiny_model, "1+1?", run), run.spent

    assert answered() == answered()
    assert answered()[1] > 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"simulations": 0}, "simulations must be at least 1, not 0"),
        ({"branching": 0}, "branching must be at least 1, not 0"),
        ({"exploration": -0.1}, "exploration must be 0 or above, not -0.1"),
        ({"select": "ucb"}, "select must be puct or uct, not 'ucb'"),
        ({"evaluate": "oracle"}, "evaluate must be rollout or score, not 'oracle'"),
        ({"temperature": -1.0}, "temperature must be 0 or above, not -1.0"),
    ],
)
def test_a_field_out_of_range_is_named(changes, message):
    with pytest.raises(ValueError, match=f"^mcts: {message}$"):
        MCTS(**changes)
