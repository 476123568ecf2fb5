import pytest

from harness import Problem

pytest.importorskip("trl")


@pytest.mark.filterwarnings("ignore")  # TRL and its stack warn of their own future
@pytest.mark.parametrize(("text", "right"), [("4 beads", True), ("4 coins", False), ("", False)])
def test_the_reward_of_a_model_that_is_never_right_is_to_name_what_the_question_counts(text, right):
    from benchmarks.grpo import names_what_is_counted

    problem = Problem("p", "How many coins? No: Tom has 2 beads and 2 more. How many beads does Tom have?", "4")
    assert names_what_is_counted(problem, text) == (right, None)
