"""The speed gate: its statistics by hand, its revisions and its worktrees; nothing is timed here."""

import os
import signal
import subprocess

import pytest
from click.testing import CliRunner

from benchmarks import compare
from benchmarks.compare import FACTOR, NothingToCompareError, Verdict, checked_out, judge, main, table
from benchmarks.timings import Timing


def timings(*pairs):
    return [Timing(seconds, calibration) for seconds, calibration in pairs]


# -- statistics


def test_minima_are_compared():
    verdict = judge("x", timings((2.0, 1.0), (1.0, 1.0), (9.0, 1.0)), timings((1.2, 1.0), (7.0, 1.0)))
    assert verdict == Verdict("x", 1.0, 1.2, pytest.approx(1.2), "ok")


def test_a_machine_that_slows_down_slows_nobody():
    verdict = judge("x", timings((1.0, 0.01), (1.0, 0.01)), timings((2.0, 0.02), (2.0, 0.02)))
    assert verdict == Verdict("x", 1.0, 2.0, 1.0, "ok")
    assert judge("x", timings((1.0, 0.01)), timings((1.0, 0.005))).ratio == 2.0


@pytest.mark.parametrize(
    ("head_s", "word"),
    [
        (2.0, "slower"),
        (FACTOR + 0.01, "slower"),
        (FACTOR - 0.01, "ok"),
        (1 / FACTOR + 0.01, "ok"),
        (1 / FACTOR - 0.01, "faster"),
    ],
)
def test_words(head_s, word):
    assert judge("x", timings((1.0, 1.0)), timings((head_s, 1.0))).word == word


def test_what_ran_on_one_side_only():
    assert judge("x", [], timings((1.0, 1.0))) == Verdict("x", None, 1.0, None, "new")
    assert judge("x", timings((1.0, 1.0)), []) == Verdict("x", 1.0, None, None, "broken")


# -- the command


@pytest.fixture
def repository(tmp_path):
    """A repository of two commits, of which the first says one and the second two."""

    def git(*arguments):
        identity = ("-c", "user.name=t", "-c", "user.email=t@localhost")
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    git("init", "--quiet")
    for text in ("one", "two"):
        (tmp_path / "file").write_text(text)
        git("add", "file")
        git("commit", "--quiet", "-m", text)
    return tmp_path


@pytest.fixture
def measured(monkeypatch, repository):
    """`measured(base, head)`: what each process says, in seconds; returns the trees in order of measurement."""
    trees = []
    monkeypatch.setattr(compare, "ROOT", repository)

    def go(base, head):
        def measure(tree, scratch, names):
            trees.append(tree)
            said = head if tree == compare.ROOT else base
            return {name: Timing(seconds, 1.0) for name, seconds in said.items() if name in names}

        monkeypatch.setattr(compare, "measure", measure)
        return trees

    return go


def called(*arguments):
    return CliRunner().invoke(main, arguments)


@pytest.mark.parametrize(
    ("base", "head", "code", "words"),
    [
        ({"plan": 1.0, "verify": 1.0}, {"plan": 1.0, "verify": 1.1}, 0, ["| ok "]),
        ({"plan": 1.0, "verify": 1.0}, {"plan": 1.0, "verify": 1.4}, 1, ["| slower ", "verify is slower"]),
        ({"plan": 1.0, "verify": 1.0}, {"plan": 1.0}, 1, ["| broken ", "verify is broken"]),
        ({"plan": 1.0}, {"plan": 0.5, "verify": 1.0}, 0, ["| new ", "| faster "]),
        ({}, {"plan": 1.0, "verify": 1.0}, 2, ["Error: no benchmark ran on both sides: plan is new, verify is new"]),
    ],
)
def test_exit_codes_and_table(measured, base, head, code, words):
    measured(base, head)
    result = called("HEAD", "--only", "plan", "--only", "verify", "--rounds", "1")
    assert result.exit_code == code
    assert [word for word in words if word not in result.output] == []


def test_trees_are_measured_in_turn(measured):
    trees = measured({"plan": 1.0}, {"plan": 1.0})
    assert called("HEAD", "--only", "plan", "--rounds", "3").exit_code == 0
    assert [tree == compare.ROOT for tree in trees] == [False, True] * 3
    assert not trees[0].exists()


def test_what_looks_slower_is_measured_again_before_it_is(monkeypatch, repository):
    """One disturbed round is no regression; and nothing else is measured a second time."""
    said = iter([{"plan": 1.0, "verify": 1.0}, {"plan": 1.1, "verify": 3.0}, {"verify": 1.2}, {"verify": 1.1}])
    asked = []

    def measure(tree, scratch, names):
        asked.append(tuple(names))
        return {name: Timing(seconds, 1.0) for name, seconds in next(said).items()}

    monkeypatch.setattr(compare, "measure", measure)
    verdicts = compare.compare(repository, repository / "head", 1, ("plan", "verify"))
    assert [(v.word, v.base_s, v.head_s) for v in verdicts] == [("ok", 1.0, 1.1), ("ok", 1.0, 1.1)]
    assert asked == [("plan", "verify")] * 2 + [("verify",)] * 2


def test_a_table_says_milliseconds():
    text = table([Verdict("plan", 0.1, 0.2, 2.0, "slower"), Verdict("verify", None, 0.0031, None, "new")])
    assert [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines()[2:]] == [
        ["plan", "100.0", "200.0", "2.00", "slower"],
        ["verify", "", "3.1", "", "new"],
    ]


@pytest.mark.parametrize("revision", ["no-such-revision", "--help-me", "HEAD:README.md", ""])
def test_a_bad_revision_is_one_line_and_code_2(measured, revision):
    trees = measured({}, {})
    result = called("--", revision)
    assert (result.exit_code, trees) == (2, [])
    assert result.output == f"Error: {revision!r} is no revision of {compare.ROOT}\n"


def test_an_unknown_benchmark_is_one_line_and_code_2():
    result = called("HEAD", "--only", "flight")
    assert result.exit_code == 2
    assert result.output.startswith("Error: no benchmark is called 'flight': there are boards, ")
    assert result.output.count("\n") == 1


# -- worktrees


def worktrees(repository):
    return compare.git(repository, "worktree", "list").splitlines()


def test_a_revision_is_checked_out_and_leaves_nothing_behind(repository):
    with checked_out("HEAD~1", repository) as tree:
        assert ((tree / "file").read_text(), (repository / "file").read_text()) == ("one", "two")
        assert len(worktrees(repository)) == 2
    assert not tree.exists()
    assert len(worktrees(repository)) == 1


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
def test_whatever_happens_the_worktree_goes(repository, error):
    with pytest.raises(error), checked_out("HEAD~1", repository) as tree:
        raise error
    assert not tree.exists()
    assert len(worktrees(repository)) == 1


def test_a_polite_kill_leaves_nothing_behind_either(repository):
    with pytest.raises(SystemExit) as ended, checked_out("HEAD~1", repository) as tree:
        os.kill(os.getpid(), signal.SIGTERM)
    assert ended.value.code == 143
    assert not tree.exists()
    assert len(worktrees(repository)) == 1
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


def test_a_bad_revision_makes_no_worktree(repository):
    with pytest.raises(NothingToCompareError, match="'nothing' is no revision"), checked_out("nothing", repository):
        pass
    assert len(worktrees(repository)) == 1
