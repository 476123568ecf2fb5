"""A draft put before the model: on one line, behind the last turn, with no meaning in other braces."""

from harness.toolbox import asked_to_fix


def test_the_last_turn_alone_is_rewritten():
    said = (
        {"role": "user", "content": "1+1?"},
        {"role": "assistant", "content": "A: 2"},
        {"role": "user", "content": "+3?"},
    )
    asked = asked_to_fix("{question} | {draft} {x}", said, "T: 2+3=5.\nA: {question}")
    assert asked == (*said[:2], {"role": "user", "content": "+3? | T: 2+3=5. A: {question} {x}"})
    assert asked_to_fix("{draft}", "1+1?", "A: 2") == ({"role": "user", "content": "A: 2"},)
