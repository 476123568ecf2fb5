"""Chain-of-thought prompting: what stands before and behind the question, whose examples, and what of a text counts."""

import dataclasses

import pytest

from harness import Problem, Run
from harness.toolbox import final_answer
from harness_test_time.cot_prompting import CoTPrompting, FewShotCoT, answer_lead, first_answer

DIALOGUE = (
    {"role": "user", "content": "1+1?"},
    {"role": "assistant", "content": "A: 2"},
    {"role": "user", "content": "and 2+2?"},
)


@pytest.fixture
def data(toy_data):
    """Train asks with +, dev with -: whoever shows a minus has looked at dev."""
    dev = [Problem(f"d{i}", f"{i}-1?", str(i - 1), f"T: {i}-1={i - 1}.") for i in range(4)]
    return dataclasses.replace(toy_data, dev=dev)


@pytest.fixture
def shown(tiny_model, data):
    """`shown(shots, seed)`: the method with its exemplars."""

    def go(shots=2, seed=0, data=data, **options):
        return FewShotCoT(shots=shots, **options).prepare(tiny_model, data, Run(seed, max_new_tokens=60))

    return go


def test_the_prompt(scripted, tiny_model):
    _, [(_, (_, _, [request]))] = scripted(CoTPrompting(), ["A: 2"])
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+1? Let's think step by step.\n".replace("'", "")
    assert request.temperature == 0.0
    assert len(request.seeds) == 1


def test_the_cue_can_be_changed(scripted, tiny_model):
    _, [(_, (_, _, [request]))] = scripted(CoTPrompting(cue="Think."), ["A: 2"])
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+1? Think.\n"
    _, [(_, (_, _, [request]))] = scripted(CoTPrompting(cue=""), ["A: 2"])
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+1?\n"


def test_of_a_conversation_the_last_turn_has_the_cue(scripted, tiny_model):
    _, [(_, (_, _, [request]))] = scripted(CoTPrompting(cue="Think."), ["A: 4"], prompt=DIALOGUE)
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+1?\nA: 2Q: and 2+2? Think.\n"


# -- with exemplars


def test_the_prompt_with_exemplars(world, shown, tiny_model):
    made = world(lambda said, number: "A: 2")
    made.answer(shown())
    [[request]] = made.drawn
    assert tiny_model.tokenizer.decode(request.prompt_ids) == (
        "<bos>Q: 3+1?\nT: 3+1=4.\nA: 4<eos>Q: 9+1?\nT: 9+1=10.\nA: 10<eos>Q: 1+1?\n"
    )
    assert (request.temperature, len(request.seeds)) == (0.0, 1)


def test_a_cue_stands_behind_every_question(world, shown, tiny_model):
    made = world(lambda said, number: "A: 2", max_new_tokens=40)
    made.answer(shown(cue="Go."))
    [[request]] = made.drawn
    assert tiny_model.decode(request.prompt_ids).count("+1? Go.\n") == 3


def test_exemplars_come_from_train_and_from_the_seed(shown, data):
    turns = [shown(shots=4, seed=seed).exemplars for seed in range(30)]
    questions = {turn["content"] for exemplars in turns for turn in exemplars if turn["role"] == "user"}
    assert questions == {problem.prompt for problem in data.problems}
    assert all(len({turn["content"] for turn in exemplars}) == 8 for exemplars in turns)  # no problem twice
    assert turns[0] == shown(shots=4, seed=0).exemplars
    assert turns[0] != turns[1]


def test_problems_without_a_solution_or_within_a_dialogue_are_no_exemplars(shown, data):
    plain, later, good = data.problems[:3]
    rows = [dataclasses.replace(plain, rationale=None), dataclasses.replace(later, earlier=("before?",)), good]
    few = dataclasses.replace(data, problems=rows)
    for seed in range(5):
        assert shown(shots=1, seed=seed, data=few).exemplars[0]["content"] == good.prompt
    with pytest.raises(ValueError, match="few-shot-cot: the train split has 1 worked solutions to show, not 2"):
        shown(shots=2, data=few)


def test_where_room_is_short_the_first_exemplars_go(tiny_model, shown):
    method = shown(shots=3)
    lengths = {}
    for longest in (25, 50, 75, 110):
        turns = method.asked(tiny_model, "1+1?", Run(0, max_new_tokens=longest))
        assert tuple(turns[:-1]) == method.exemplars[len(method.exemplars) + 1 - len(turns) :]
        assert turns[-1]["content"] == "1+1?"
        lengths[longest] = len(turns)
        assert len(turns) == 1 or len(tiny_model.encode_prompt(turns)) + longest <= tiny_model.context
    assert list(lengths.values()) == [7, 5, 3, 1]
    assert method.asked(tiny_model, DIALOGUE, Run(0, max_new_tokens=60))[-3:] == DIALOGUE
    assert len(method.asked(tiny_model, DIALOGUE, Run(0, max_new_tokens=60))) == 5


def test_a_context_that_holds_no_exemplar_is_refused(tiny_model, data):
    with pytest.raises(ValueError, match=r"128 tokens hold no exemplar, question and answer of 100$"):
        FewShotCoT(shots=1).prepare(tiny_model, data, Run(0, max_new_tokens=100))


def test_what_is_said_after_the_answer_line_is_no_answer(world, shown):
    text = "T: 1+1=2.\nA: 2\nQ: 5+5?\nT: 5+5=10.\nA: 10"
    made = world(lambda said, number: text)
    answer = made.answer(shown())
    assert answer.text == "T: 1+1=2.\nA: 2"
    assert [completion.text for completion in answer.completions] == [text]
    assert made.answer(CoTPrompting()).text == text  # without exemplars nobody knows how an answer line begins


def test_no_answer_is_not_made_up_from_the_exemplars(world, shown):
    made = world(lambda said, number: "no idea")
    assert final_answer(made.answer(shown()).text) is None


def test_a_solution_of_several_paragraphs_is_not_cut(world, shown):
    text = "T: first.\n\nT: then.\nQ: 7?\nA: 2"
    made = world(lambda said, number: text)
    assert made.answer(shown()).text == text
    [[request]] = made.drawn
    assert request.stop == ()
    assert request.max_new_tokens == 60


def test_how_an_answer_line_begins(data):
    problem = Problem("p", "1+1?", " 2 ", "T: 2.")
    assert answer_lead(data.problems[0], data) == "A:"
    assert (
        answer_lead(problem, dataclasses.replace(data, render_target=lambda p, _: "The answer is 2")) == "The answer is"
    )
    assert answer_lead(problem, dataclasses.replace(data, render_target=lambda p, _: "So 2 it is")) == ""
    assert first_answer("T: 1.\nA: 2\nA: 3", "A:") == "T: 1.\nA: 2"
    assert first_answer("T: A: 1.\nA 2", "A:") == "T: A: 1.\nA 2"
    assert first_answer("T: 1.\nA: 2\nA: 3", "") == "T: 1.\nA: 2\nA: 3"


def test_without_shots_nothing_is_prepared_and_with_shots_it_must_be(world, tiny_model, data):
    run = Run(0, max_new_tokens=60)
    assert CoTPrompting().prepare(tiny_model, data, run) == CoTPrompting()
    assert run.ledger.total_tokens == 0
    with pytest.raises(LookupError, match="few-shot-cot shows exemplars"):
        world(lambda said, number: "A: 2").answer(FewShotCoT())


def test_the_row_with_exemplars_needs_no_cue():
    assert FewShotCoT.name == "few-shot-cot"
    assert FewShotCoT() == FewShotCoT(cue="", shots=4, temperature=0.0)


@pytest.mark.parametrize(("field", "value"), [("shots", -1), ("temperature", -0.1), ("temperature", float("nan"))])
def test_bad_fields(field, value):
    with pytest.raises(ValueError, match=rf"^cot-prompting: {field} must be .*, not "):
        CoTPrompting(**{field: value})
