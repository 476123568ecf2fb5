"""The command line: names, messages and exit codes."""

import json

import pytest
from click.testing import CliRunner

from harness.cli import again_without_limit, main


@pytest.fixture
def call():
    def go(*arguments):
        return CliRunner().invoke(main, [str(a) for a in arguments])

    return go


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("run", "-m", "self-consistancy"), "unknown method 'self-consistancy': did you mean self-consistency"),
        (("run", "--model", "tinny"), "unknown model 'tinny': did you mean tiny"),
        (("run", "--dataset", "tiny-word"), "unknown dataset 'tiny-word': did you mean tiny-world"),
        (("run", "--device", "gpu"), "unknown device 'gpu'"),
        (("run", "-o", "sft.learning_rate=1"), "unknown field of sft 'learning_rate'"),
        (("run", "-o", "sft.lr=fast"), "sft.lr='fast': expected float"),
        (("run", "-o", "sft"), "method.field=value"),
        (("run", "-m", "sft +"), "no method name"),
        (("run", "-m", "cot-sft > self-consistency"), "put it after a +"),
        (("run", "--all", "-m", "sft"), "exclude each other"),
        (("run", "--seeds", "a"), "--seeds 'a'"),
        (("run", "--limit", "0"), "--limit"),
        (("run", "--question-tokens", "0"), "--question-tokens"),
        (("run", "--curve", "4,x"), "--curve '4,x': expected whole numbers"),
        (("run", "--lmit", "1"), "No such option"),
        (("rum",), "No such command"),
        (("ls", "things"), "things"),
    ],
)
def test_bad_requests_are_one_line_and_exit_code_4(call, tmp_path, monkeypatch, arguments, words):
    monkeypatch.chdir(tmp_path)
    result = call(*arguments)
    assert result.exit_code == 4
    assert words in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert not list(tmp_path.iterdir())  # nothing was begun


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "a", "answer": "1"}\n{"prompt": "b"}\n', "row 2: has no column 'answer'"),
        ("", "is empty"),
        ('{"prompt": "a", "answer": NaN}\n', "row 1: holds NaN"),
        (
            '{"id": 1, "prompt": "a", "answer": 1}\n{"id": 1, "prompt": "b", "answer": 1}\n',
            "row 2: id '1' stands already",
        ),
        ('{"prompt": "a", "answer": "1"}\n', "too few"),
    ],
)
def test_bad_data_ends_before_anything_runs(call, tmp_path, monkeypatch, content, words):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "mine.jsonl"
    path.write_text(content, encoding="utf-8")
    result = call("run", "-m", "base", "--dataset", path)
    assert result.exit_code == 4
    assert words in result.stderr
    assert str(path) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["mine.jsonl"]


def test_ls_methods_as_json(call):
    rows = {row["name"]: row for row in json.loads(call("ls", "methods", "--json").stdout)}
    assert set(rows["dpo"]) >= {"name", "family", "verbs", "after", "needs", "summary", "distribution", "version"}
    assert rows["dpo"]["after"] == ["cot-sft"]
    assert rows["outcome-reward-model"]["verbs"] == ["train", "score"]
    assert rows["best-of-n"]["needs"] == ["scorer"]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("methods", "greedy"),
        ("models", "tiny"),
        ("datasets", "tiny-world-easy"),
        ("metrics", "accuracy"),
        ("devices", "mps"),
    ],
)
def test_ls(call, kind, name):
    result = call("ls", kind)
    assert result.exit_code == 0
    assert name in result.stdout


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("process-reward-model.aggregate=median", "process-reward-model knows no 'median', but min"),
        ("grpo.samples=1", "samples of grpo must be at least 2, not 1"),
    ],
)
def test_a_value_that_a_method_refuses_ends_the_command_before_anything_runs(call, tmp_path, option, said):
    result = call("run", "-m", option.split(".")[0], "-o", option, "--out", tmp_path / "out")
    assert result.exit_code == 4
    assert said in result.stderr
    assert not (tmp_path / "out").exists()


def test_plugins(call):
    rows = json.loads(call("plugins", "--json").stdout)
    assert {"plugin", "status", "brings"} <= set(rows[0])
    assert all(row["status"] == "ok" for row in rows)


def test_show_of_an_unknown_cell(call, tmp_path):
    result = call("show", "nothing", "--out", tmp_path)
    assert result.exit_code == 4
    assert "no cell 'nothing'" in result.stderr


def test_boards_of_a_folder_without_results(call, tmp_path):
    result = call("boards", tmp_path)
    assert result.exit_code == 1
    assert "holds no results" in result.stderr


def test_doctor(call):
    rows = {row["what"]: row for row in json.loads(call("doctor", "--json").stdout)}
    assert rows["device cpu"]["state"] == "ok"
    assert rows["torch"]["state"] == "ok"


def test_the_next_command_leaves_out_the_limit(monkeypatch):
    monkeypatch.setattr("sys.argv", ["harness", "run", "--limit", "20", "-m", "cot-sft > dpo", "--limit=3"])
    assert again_without_limit() == "harness run -m 'cot-sft > dpo'"


def test_every_option_is_named_in_the_readme(request):
    readme = (request.config.rootpath / "README.md").read_text(encoding="utf-8")
    options = [option for parameter in main.commands["run"].params for option in parameter.opts]
    assert [o for o in options if o.startswith("--") and o not in readme] == []
    assert [name for name in main.commands if f"harness {name}" not in readme] == []
