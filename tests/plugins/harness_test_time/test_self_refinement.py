"""Self-refinement: what is asked, when it ends, which draft stands, and that a scorer can refuse a correction."""

import pytest

from harness import BudgetSpentError, Run, Scores
from harness.registry import describe_method
from harness.toolbox import asked_to_fix, draw
from harness_test_time.greedy import Greedy
from harness_test_time.sampled import Sampled
from harness_test_time.self_refinement import GuidedRefinement, SelfRefinement, harness_methods
from harness_world import rationales, wordings
from harness_world.problems import Step

WRONG, OTHER, GOOD = "T: 1+1=3.\nA: 3", "T: 1+1=4.\nA: 4", "T: 1+1=2.\nA: 2"
RIGHT = "The draft is right.\nA: 3"


@pytest.fixture
def said(world):
    """`said(texts, chances)`: a world whose model says these texts one after the other."""

    def go(texts, chances=None, **options):
        return world(lambda _, number: texts[number], chances and chances.__getitem__, **options)

    return go


def asked(made, model):
    return [model.decode(request.prompt_ids) for [request] in made.drawn]


def test_each_correction_is_accepted_and_asked_for_with_the_last_draft_alone(said, tiny_model):
    made = said([WRONG, OTHER, GOOD, "A: 9"])
    answer = made.answer(SelfRefinement(rounds=2))
    assert answer.text == GOOD
    assert [c.text for c in answer.completions] == [WRONG, OTHER, GOOD]
    assert asked(made, tiny_model) == [
        "Q: 1+1?\n",
        "Q: 1+1?\nDraft: T: 1+1=3. A: 3\nFix the draft.\n",
        "Q: 1+1?\nDraft: T: 1+1=4. A: 4\nFix the draft.\n",
    ]
    assert {request.temperature for [request] in made.drawn} == {0.0}


def test_it_asks_in_the_form_that_the_base_model_has_read():
    for method in (SelfRefinement(), GuidedRefinement()):
        assert method.ask == "{question}" + wordings.DRAFT + "{draft}" + wordings.FIX
        assert method.right == wordings.RIGHT
    steps = rationales.written((Step(1, "+", 1, 3), Step(3, "+", 1, 4)), "plain")
    draft = f"{rationales.thought(steps)} {rationales.direct(4)}"
    [turn] = asked_to_fix(SelfRefinement().ask, "How many?", rationales.reply(steps, 4))
    assert turn["content"] == f"How many?{wordings.DRAFT}{draft}{wordings.FIX}"


def test_a_draft_that_is_called_right_stands(said):
    made = said([WRONG, RIGHT.replace("A: 3", "A: 8"), GOOD])
    answer = made.answer(SelfRefinement(rounds=2))
    assert (answer.text, len(made.drawn)) == (WRONG, 2)  # the draft itself: not the verdict, nor another answer in it
    assert [c.text for c in answer.completions] == [WRONG]
    assert made.run.ledger.sampled_tokens > len(WRONG) + len("The draft is right.")  # the verdict is paid for


def test_a_repeated_answer_ends_it_and_one_that_cannot_be_read_repeats_nothing(said):
    made = said([GOOD, "A: 2.0", WRONG])
    assert made.answer(SelfRefinement(rounds=2)).text == "A: 2.0"
    assert len(made.drawn) == 2
    made = said(["none", "nothing", "not a thing", "A: 1"])
    answer = made.answer(SelfRefinement(rounds=2))
    assert (answer.text, len(answer.completions)) == ("not a thing", 3)
    made = said(["none", "none", "A: 1"])  # would be asked for, and said, once more
    assert made.answer(SelfRefinement(rounds=2)).text == "none"
    assert len(made.drawn) == 2


def test_an_answer_that_flips_can_be_told_from_the_record(said):
    answer = said([GOOD, WRONG]).answer(SelfRefinement(rounds=1))
    assert (answer.completions[0].text, answer.completions[-1].text, answer.text) == (GOOD, WRONG, WRONG)


@pytest.mark.parametrize(("temperature", "base"), [(0.0, Greedy()), (1.0, Sampled())])
def test_no_rounds_is_the_base_method(tiny_model, temperature, base):
    for method in (SelfRefinement, GuidedRefinement):
        runs = [Run(4, problem_id="p", max_new_tokens=20, submit=real) for _ in range(2)]
        answer = method(rounds=0, temperature=temperature).answer(tiny_model, "1+1?", runs[0])
        assert answer == base.answer(tiny_model, "1+1?", runs[1])


def test_only_the_last_turn_of_a_conversation_is_rewritten(said, tiny_model):
    talk = [("user", "1+2?"), ("assistant", "A: 3"), ("user", "and 1?")]
    made = said([WRONG, GOOD])
    made.answer(SelfRefinement(rounds=1), tuple({"role": role, "content": text} for role, text in talk))
    ids = made.drawn[1][0].prompt_ids
    assert tiny_model.decode(ids) == "Q: 1+2?\nA: 3Q: and 1?\nDraft: T: 1+1=3. A: 3\nFix the draft.\n"


def test_braces_in_a_text_mean_nothing():
    [turn] = asked_to_fix("Of \\boxed{} {draft} {question}", "is {draft} {0}?", "{question} {x")
    assert turn == {"role": "user", "content": "Of \\boxed{} {question} {x is {draft} {0}?"}


def test_a_scorer_can_refuse_a_correction(said):
    made = said([GOOD, WRONG, OTHER], {GOOD: 0.6, WRONG: 0.5, OTHER: 0.9})
    answer = made.answer(GuidedRefinement(rounds=2))
    assert answer.text == GOOD
    assert made.judged == [[GOOD], [WRONG]]
    assert len(made.drawn) == 2  # greedily, the same would be asked for and said again
    assert [c.text for c in answer.completions] == [GOOD, WRONG]
    made = said([WRONG, GOOD], {WRONG: 0.5, GOOD: 0.5})
    assert made.answer(GuidedRefinement(rounds=1)).text == GOOD  # as good is good enough


def test_a_sampled_correction_that_was_refused_is_tried_again(said, tiny_model):
    made = said([WRONG, OTHER, GOOD], {WRONG: 0.5, OTHER: 0.4, GOOD: 0.45})
    assert made.answer(GuidedRefinement(rounds=2, temperature=1.0)).text == WRONG  # compared with what stands
    assert asked(made, tiny_model)[1] == asked(made, tiny_model)[2]
    seeds = [seed for [request] in made.drawn for seed in request.seeds]
    assert len(set(seeds)) == 3
    assert {request.temperature for [request] in made.drawn} == {1.0}


def test_a_good_draft_is_not_corrected(said):
    made = said([GOOD, WRONG], {GOOD: 0.95})
    assert made.answer(GuidedRefinement(enough=0.9)).text == GOOD
    assert len(made.drawn) == 1
    made = said([WRONG, GOOD, OTHER], {WRONG: 0.9, GOOD: 0.95})
    assert made.answer(GuidedRefinement(enough=0.9)).text == GOOD
    assert len(made.drawn) == 2


def test_corrections_are_judged_as_completions_of_the_question(scripted):
    _, seen = scripted(GuidedRefinement(rounds=1, enough=2.0), ["A: 1"], [0.5])
    assert [payload[1] for kind, payload in seen if kind == "score"] == ["1+1?", "1+1?"]
    judged = [c for kind, payload in seen if kind == "score" for c in payload[2]]
    assert [(c.text, c.tokens) for c in judged] == [("A: 1", (1,))] * 2


def test_the_budget_ends_it_with_the_best_so_far(said):
    cost = len(WRONG) + 1
    made = said([WRONG, GOOD], budget=cost)
    assert made.answer(SelfRefinement()).text == WRONG
    for method, chances in ((SelfRefinement(), None), (GuidedRefinement(), {WRONG: 0.1, GOOD[:5]: 0.8})):
        made = said([WRONG, GOOD], chances, budget=cost + 5)  # a correction without its end is none
        answer = made.answer(method)
        assert (answer.text, made.run.left) == (WRONG, 0)
        assert [c.finish for c in answer.completions] == ["eos", "length"]
    with pytest.raises(BudgetSpentError, match="budget of 0"):
        said([WRONG], budget=0).answer(SelfRefinement())


def test_a_draft_that_leaves_the_context_no_room_stands(make_model):
    model = make_model(max_position_embeddings=40)
    run = Run(0, problem_id="p", max_new_tokens=30)
    answer = SelfRefinement(rounds=2).answer(model, "1+1?", run)
    assert len(answer.completions) == 1
    assert answer.text == answer.completions[0].text


def real(kind, payload):
    return [Scores(len(c.text) / 100) for c in payload[2]] if kind == "score" else draw(payload[1], payload[2])


@pytest.mark.parametrize("method", [SelfRefinement(temperature=1.0), GuidedRefinement(temperature=1.0, enough=2.0)])
def test_a_real_model_refines(tiny_model, method):
    runs = [Run(3, problem_id="p", max_new_tokens=12, submit=real) for _ in range(2)]
    answers = [method.answer(tiny_model, "1+1?", run) for run in runs]
    assert answers[0] == answers[1]
    assert 1 < len(answers[0].completions) <= 3
    assert answers[0].text in [c.text for c in answers[0].completions]
    alone = Run(3, problem_id="p", max_new_tokens=12)
    if method.name == "self-refinement":
        assert method.answer(tiny_model, "1+1?", alone) == answers[0]
        assert alone.spent > 0


@pytest.mark.parametrize(
    ("field", "value"),
    [("rounds", -1), ("temperature", -0.1), ("temperature", float("inf")), ("ask", "{draft}"), ("right", " ")],
)
def test_a_field_out_of_range_is_named(field, value):
    for method in harness_methods():
        with pytest.raises(ValueError, match=f"{method.name}: {field} must be .*, not "):
            method(**{field: value})


def test_only_the_guided_one_needs_a_scorer():
    intrinsic, guided = map(describe_method, harness_methods())
    assert (intrinsic["name"], intrinsic["needs"]) == ("self-refinement", [])
    assert (guided["name"], guided["needs"]) == ("guided-refinement", ["scorer"])
    assert intrinsic["summary"].startswith("Self-refinement: ")
    assert guided["summary"].startswith("Guided self-refinement: ")
