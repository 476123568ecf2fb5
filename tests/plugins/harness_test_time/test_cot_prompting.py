"""Chain-of-thought prompting: the cue stands behind the question, and nothing else changes."""

from harness_test_time.cot_prompting import CoTPrompting


def test_the_prompt(scripted, tiny_model):
    _, [(_, (_, _, [request]))] = scripted(CoTPrompting(), ["A: 2"])
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+1? Let's think step by step.\n".replace("'", "")
    assert request.temperature == 0.0
    assert len(request.seeds) == 1


def test_the_cue_can_be_changed(scripted, tiny_model):
    _, [(_, (_, _, [request]))] = scripted(CoTPrompting(cue="Think."), ["A: 2"])
    assert tiny_model.decode(request.prompt_ids) == "Q: 1+1? Think.\n"
