"""Graph of thoughts: best-of-n is one of its graphs, corrections stay where they score higher, the merge is a vote."""

import pytest

from harness import BudgetSpentError, Run, Scores
from harness.toolbox import draw
from harness_test_time.best_of_n import BestOfN
from harness_test_time.graph_of_thoughts import GraphOfThoughts
from harness_world import wordings

ASKED = "Q: 1+1?\nDraft: A: {}\nFix the draft.\n"


def real(kind, payload):
    return [Scores(len(c.text) % 7 / 7) for c in payload[2]] if kind == "score" else draw(payload[1], payload[2])


@pytest.fixture
def said(world):
    """`said(texts, chances)`: a world whose model says these texts one after the other."""

    def go(texts, chances, **options):
        return world(lambda _, number: texts[number], chances.__getitem__, **options)

    return go


@pytest.mark.parametrize("budget", [None, 90])
def test_without_corrections_and_with_one_kept_it_is_best_of_n(tiny_model, budget):
    for seed in range(5):
        options = {"budget": budget, "counts": "sampled_tokens", "max_new_tokens": 20, "problem_id": "p"}
        runs = [Run(seed, submit=real, **options) for _ in range(2)]
        graph = GraphOfThoughts(samples=6, keep=1, improve=0).answer(tiny_model, "1+1?", runs[0])
        assert graph == BestOfN(samples=6).answer(tiny_model, "1+1?", runs[1])
        assert runs[0].judged == runs[1].judged
        assert runs[0].ledger == runs[1].ledger


def test_a_tie_goes_to_the_first(said):
    made = said(["A: 1", "A: 2"], {"A: 1": 0.5, "A: 2": 0.5})
    assert made.answer(GraphOfThoughts(samples=2, keep=1, improve=0)).text == "A: 1"


def test_thoughts_merge_by_a_vote_that_scores_weigh(said):
    chances = {"A: 1": 0.6, "so A: 2": 0.4, "A: 2": 0.5, "A: 3": 0.1}
    made = said(list(chances), chances)
    answer = made.answer(GraphOfThoughts(samples=4, keep=3, improve=0))
    assert answer.text == "A: 2"  # 0.9 against 0.6, and the better of the two texts
    made = said(["A: 1", "A: 2", "so A: 2"], {"A: 1": 0.6, "A: 2": 0.2, "so A: 2": 0.2})
    assert made.answer(GraphOfThoughts(samples=3, keep=3, improve=0)).text == "A: 1"  # heads alone do not count


def test_the_record_has_every_sample_if_two_are_the_same(said):
    made = said(["A: 1", "A: 1"], {"A: 1": 0.5})
    assert len(made.answer(GraphOfThoughts(samples=2, keep=1, improve=0)).completions) == 2


def test_only_what_is_kept_goes_on(said):
    chances = {"A: 1": 0.5, "A: 2": 0.3, "so A: 2": 0.3, "A: 3": 0.4}
    made = said(["A: 2", "so A: 2", "A: 3", "A: 1"], chances)
    assert made.answer(GraphOfThoughts(samples=4, keep=2, improve=0)).text == "A: 1"


def test_the_kept_are_corrected_together_and_the_better_version_stays(said, tiny_model):
    chances = {"A: 1": 0.3, "A: 2": 0.5, "A: 3": 0.4, "A: 4": 0.2, "A: 5": 0.6}
    made = said(["A: 1", "A: 2", "A: 3", "A: 4", "A: 5"], chances)
    answer = made.answer(GraphOfThoughts(samples=3, keep=2))
    assert answer.text == "A: 5"  # of 3, instead of it; 4, of 2, scores less than 2
    assert [c.text for c in answer.completions] == ["A: 1", "A: 2", "A: 3", "A: 4", "A: 5"]
    first, second = made.drawn  # one request for all samples, one batch for all corrections
    assert len(first[0].seeds) == 3
    assert [tiny_model.decode(request.prompt_ids) for request in second] == [ASKED.format(2), ASKED.format(3)]
    assert made.judged == [["A: 1", "A: 2", "A: 3"], ["A: 4", "A: 5"]]
    assert len({seed for requests in made.drawn for request in requests for seed in request.seeds}) == 5


def test_a_correction_takes_the_place_of_its_thought_and_has_no_second_vote(said):
    texts = ["A: 2", "A: 3", "so A: 2", "so A: 3"]
    made = said(texts, {"A: 2": 0.3, "A: 3": 0.5, "so A: 3": 0.5, "so A: 2": 0.3})
    assert made.answer(GraphOfThoughts(samples=2, keep=2)).text == "A: 3"
    made = said(["A: 1", "A: 2", "so A: 1", "A: 3"], {"A: 1": 0.5, "A: 2": 0.6, "so A: 1": 0.5, "A: 3": 0.1})
    assert made.answer(GraphOfThoughts(samples=2, keep=2)).text == "A: 2"  # 1 has 0.5, not 1.0


def test_rounds_end_and_each_corrects_what_the_last_one_left(said, tiny_model):
    chances = {f"A: {n}": n / 10 for n in range(6)}
    made = said([f"A: {n}" for n in (1, 2, 0, 3, 9)], chances)
    assert made.answer(GraphOfThoughts(samples=1, keep=1, improve=3)).text == "A: 3"
    asked = [tiny_model.decode(request.prompt_ids) for [request] in made.drawn]
    assert asked[1:] == [ASKED.format(1), ASKED.format(2), ASKED.format(2)]
    assert made.judged == [["A: 1"], ["A: 2"], ["A: 0"], ["A: 3"]]


def test_a_thought_that_is_called_right_stays_and_is_not_judged_again(said):
    texts = ["A: 1", "A: 2", "The draft is right.\nA: 9", "A: 1"]
    made = said(texts, {"A: 1": 0.4, "A: 2": 0.6})
    answer = made.answer(GraphOfThoughts(samples=2, keep=2))
    assert answer.text == "A: 2"
    assert made.judged == [["A: 1", "A: 2"]]
    assert [c.text for c in answer.completions] == ["A: 1", "A: 2"]


def test_the_graph_is_in_topological_order():
    nodes = GraphOfThoughts(improve=2).graph()
    names = [name for name, _, _ in nodes]
    assert len(set(names)) == len(names) == 3 + 2 * 3 + 1
    assert all(other in names[:place] for place, (_, _, before) in enumerate(nodes) for other in before)
    used = {other for _, _, before in nodes for other in before}
    assert used == set(names) - {"merged"}


def test_where_nobody_says_an_answer_the_best_thought_is_returned(said):
    chances = {"no": 0.1, "none": 0.3, "nothing": 0.2, "not": 0.0, "never": 0.05}
    made = said(["no", "none", "nothing", "not", "never"], chances)
    assert made.answer(GraphOfThoughts(samples=3, keep=2)).text == "none"
    made = said(["no", "none", "not", "never"], {"no": 0.5, "none": 0.4, "not": 0.1, "never": 0.9})
    assert made.answer(GraphOfThoughts(samples=2, keep=2)).text == "never"  # the best by now
    made = said(["no", "none"], {"no": 0.0, "none": 0.0})
    assert made.answer(GraphOfThoughts(samples=2, keep=2, improve=0)).text == "no"


def test_the_budget_is_kept_and_the_best_so_far_returned(said):
    chances = {"A: 1": 0.4, "A: 2": 0.6}
    made = said(["A: 1", "A: 2", "A: 3"], chances, budget=10, max_new_tokens=5)
    assert made.answer(GraphOfThoughts(samples=2, keep=2)).text == "A: 2"
    assert made.run.left == 0
    made = said(["A: 1", "A: 2", "A: 3", "A: 4"], chances, budget=16, max_new_tokens=5)
    answer = made.answer(GraphOfThoughts(samples=2, keep=2))  # 3 tokens a correction: not one is whole
    assert (answer.text, made.run.left, len(answer.completions)) == ("A: 2", 0, 2)
    made = said(["A: 1", "A: 2"], chances, budget=5, max_new_tokens=5)
    assert made.answer(GraphOfThoughts(samples=2, keep=2)).text == "A: 1"  # fewer than are to be kept
    with pytest.raises(BudgetSpentError, match="budget of 0"):
        said(["A: 1"], chances, budget=0).answer(GraphOfThoughts())


def test_what_the_budget_cut_off_is_kept_only_where_it_is_alone(said):
    made = said(["A: 1", "so A: 2"], {"A: 1": 0.2, "so A": 0.9}, budget=9, max_new_tokens=8)
    answer = made.answer(GraphOfThoughts(samples=2, keep=1, improve=0))
    assert (answer.text, [c.text for c in answer.completions]) == ("A: 1", ["A: 1", "so A"])
    assert said(["so A: 2"], {"so A": 0.9}, budget=4).answer(GraphOfThoughts()).text == "so A"


def test_a_solution_that_was_cut_short_is_chosen_only_where_none_is_whole(said):
    chances = {"so 77": 0.9, "A: 2": 0.3, "so A: 3": 0.1}
    made = said(["so 7777", "A: 2"], chances, max_new_tokens=5)
    assert made.answer(GraphOfThoughts(samples=2, keep=2, improve=0)).text == "A: 2"
    made = said(["so 7777", "so 7777"], chances, max_new_tokens=5)
    assert made.answer(GraphOfThoughts(samples=2, keep=2, improve=0)).text == "so 77"


def test_a_thought_that_leaves_the_context_no_room_stays(make_model):
    run = Run(0, problem_id="p", max_new_tokens=30, submit=real)
    answer = GraphOfThoughts(samples=4, keep=4).answer(make_model(max_position_embeddings=40), "1+1?", run)
    assert all(c.tokens for c in answer.completions)
    assert len(answer.completions) >= 4


def test_a_real_model_runs_the_graph(tiny_model):
    runs = [Run(3, problem_id="p", max_new_tokens=12, submit=real) for _ in range(2)]
    answers = [GraphOfThoughts(improve=2).answer(tiny_model, "1+1?", run) for run in runs]
    assert answers[0] == answers[1]
    assert 8 < len(answers[0].completions) <= 16
    assert answers[0].text in [c.text for c in answers[0].completions]


def test_only_the_last_turn_of_a_conversation_is_rewritten(said, tiny_model):
    made = said(["A: 3", "A: 4"], {"A: 3": 0.5, "A: 4": 0.6})
    talk = [("user", "1+2?"), ("assistant", "A: 3"), ("user", "and 1?")]
    made.answer(GraphOfThoughts(samples=1, keep=1), tuple({"role": role, "content": content} for role, content in talk))
    [request] = made.drawn[1]
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+2?\nA: 3Q: and 1?\nDraft: A: 3\nFix the draft.\n"


def test_it_asks_in_the_form_that_the_base_model_has_read():
    assert GraphOfThoughts().ask == "{question}" + wordings.DRAFT + "{draft}" + wordings.FIX
    assert GraphOfThoughts().right == wordings.RIGHT


@pytest.mark.parametrize(
    ("field", "value"),
    [("samples", 0), ("keep", 0), ("keep", 9), ("improve", -1), ("temperature", -1.0), ("ask", "Fix!"), ("right", "")],
)
def test_a_field_out_of_range_is_named(field, value):
    with pytest.raises(ValueError, match=f"graph-of-thoughts: {field} must be .*, not "):
        GraphOfThoughts(**{"keep": 1, field: value})
