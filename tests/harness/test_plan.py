"""Plans: what an expression stands for, starts, keys, and no stage twice."""

import dataclasses

import pytest

from harness.config import ConfigError, RunConfig
from harness.contracts import DatasetSpec, ModelSpec
from harness.plan import Pipeline, curve, make_plan, parse_options, pipelines, resolve, settled
from harness.registry import MethodInfo, Registry, RegistryError


def info(name, verbs, *, after=(), needs=(), models=(), fields=None, family="test-time", **marks):
    marked = {"upper_bound": False, "trains_policy": False, "scales": "", **marks}
    told = {"name": name, "family": family, "verbs": verbs, "after": after, "needs": needs, "models": models}
    origin = {"source": f"sha-{name}", "module": "m", "distribution": "d", "version": "1"}
    return MethodInfo(**told, **marked, summary="", fields=fields or {}, **origin)


METHODS = [
    info("greedy", ("answer",), family="control", fields={"temperature": 0.0}),
    info("think", ("train",), fields={"lr": 0.1, "steps": 3}),
    info("prefer", ("train",), after=("think",)),
    info("vote", ("answer",), after=("think",), fields={"samples": 16}, scales="samples"),
    info("choose", ("answer",), after=("think",), needs=("scorer",)),
    info("judge", ("train", "score"), after=("think",)),
    info("coin", ("score",), after=("think",), family="control"),
    info("both", ("train", "score"), after=("think",), family="reinforcement-learning", trains_policy=True),
    info("beams", ("answer",), after=("think", "judge"), needs=("scorer",)),
    info("key", ("answer",), after=("think",), upper_bound=True),
]


class FakeRegistry(Registry):
    """A registry whose model and dataset need no plugin."""

    def spec(self, kind, name):
        if kind == "models":
            return ModelSpec(name, "", lambda device: None, lambda: f"weights of {name}")
        return DatasetSpec(name, "", lambda: None, lambda: f"rows of {name}", 32, 1000, 80)


@pytest.fixture
def registry():
    others = {"models": {"m": ("", None), "n": ("", None)}, "datasets": {"d": ("", None)}}
    return FakeRegistry((), {m.name: m for m in METHODS}, others)


def config(*texts, **changes):
    return RunConfig(pipelines=texts, model="m", dataset="d", **changes)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("think", [Pipeline(("think",), None, "greedy")]),
        ("base", [Pipeline((), None, "greedy")]),
        ("prefer", [Pipeline(("think", "prefer"), None, "greedy")]),
        ("base > prefer", [Pipeline(("prefer",), None, "greedy")]),
        ("prefer + vote", [Pipeline(("think", "prefer"), None, "vote")]),
        ("vote", [Pipeline(("think",), None, "vote")]),
        ("base + vote", [Pipeline((), None, "vote")]),
        ("greedy", [Pipeline((), None, "greedy")]),
        ("beams", [Pipeline(("think",), "judge", "beams")]),  # it names its scorer, and none else is tried
        ("think > coin + beams", [Pipeline(("think",), "coin", "beams")]),
        ("think > judge + choose", [Pipeline(("think",), "judge", "choose")]),
        ("choose", [Pipeline(("think",), judge, "choose") for judge in ("judge", "coin", "both")]),
        ("judge", [Pipeline(("think",), "judge", "choose")]),
        ("base > coin + choose", [Pipeline((), "coin", "choose")]),
    ],
)
def test_what_an_expression_stands_for(registry, text, expected):
    assert resolve(text, registry) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("both", [Pipeline(("think", "both"), None, "greedy"), Pipeline(("think",), "both", "choose")]),
        ("base > both", [Pipeline(("both",), None, "greedy"), Pipeline((), "both", "choose")]),
        ("both + greedy", [Pipeline(("think", "both"), None, "greedy")]),
        ("both + vote", [Pipeline(("think", "both"), None, "vote")]),
        ("both > prefer", [Pipeline(("think", "both", "prefer"), None, "greedy")]),
        ("both > prefer + vote", [Pipeline(("think", "both", "prefer"), None, "vote")]),
        ("both + choose", [Pipeline(("think",), "both", "choose")]),
        ("both + beams", [Pipeline(("think",), "both", "beams")]),
        ("both > judge", [Pipeline(("think", "both"), "judge", "choose")]),
        ("both > judge + choose", [Pipeline(("think", "both"), "judge", "choose")]),
        ("both > coin + choose", [Pipeline(("think", "both"), "coin", "choose")]),
        ("both > both + choose", [Pipeline(("think", "both"), "both", "choose")]),
        (
            "both > prefer + choose",  # another stage came after it: no scorer is named
            [Pipeline(("think", "both", "prefer"), judge, "choose") for judge in ("judge", "coin", "both")],
        ),
    ],
)
def test_what_trains_a_policy_and_scores_is_what_its_place_asks_for(registry, text, expected):
    assert resolve(text, registry) == expected
    for pipeline in expected:  # its label comes back to it; that of the policy brings what it scores as well
        first, *others = resolve(pipeline.label({}, registry), registry)
        assert first == pipeline
        assert bool(others) is (pipeline.stages[-1:] == ("both",) and pipeline.answer == "greedy")
        assert all(other.scorer == "both" for other in others)


def test_a_policy_that_scores_is_trained_once_for_all_its_rows(registry):
    plan = make_plan(config("both", "both + vote"), registry, "cpu")
    assert plan.rows == ("base", "think", "think > both", "think > both + choose", "think > both + vote")
    [both] = [job.key for job in plan.jobs if job.kind == "stage" and job.spec["method"]["name"] == "both"]
    answers = {job.spec["row"]["pipeline"]: job for job in plan.jobs if job.kind == "answers"}
    policy, scorer = answers["think > both"].spec, answers["think > both + choose"].spec
    assert policy["policy"][-1] == scorer["scorer"]["stage"] == both
    assert policy["policy"][:-1] == scorer["policy"]
    assert (policy["scorer"], policy["row"]["method"], policy["row"]["start"]) == (None, "both", "think")
    assert (scorer["row"]["method"], scorer["row"]["start"]) == ("choose", "think")


def test_without_a_method_that_takes_any_scorer_what_trains_a_policy_has_its_own_row(registry):
    rest = {name: method for name, method in registry.methods.items() if name != "choose"}
    assert resolve("both", FakeRegistry((), rest, registry.others)) == [Pipeline(("think", "both"), None, "greedy")]


def test_a_method_that_comes_after_a_policy_that_scores_names_it_as_its_scorer_only_where_it_is_last(registry):
    seek = info("seek", ("answer",), after=("think", "both"), needs=("scorer",))
    roam = info("roam", ("answer",), after=("both", "prefer"), needs=("scorer",))
    other = FakeRegistry((), {**registry.methods, "seek": seek, "roam": roam}, registry.others)
    assert resolve("seek", other) == [Pipeline(("think",), "both", "seek")]
    assert resolve("roam", other)[0] == Pipeline(("both", "prefer"), "judge", "roam")
    assert [p.answer for p in resolve("judge", other)] == ["choose", "roam"]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("think > vote", "put it after a"),
        ("think + prefer", "cannot answer"),
        ("judge > coin + choose", "more than one scorer: judge and coin"),
        ("judge > both + choose", "more than one scorer: judge and both"),
        ("judge > both", "more than one scorer: judge and both"),
        ("judge + vote", "uses no scorer"),
        ("judge > both + vote", "uses no scorer, judge would be trained for nothing"),
        ("think + both", "both cannot answer, it can train and score"),
    ],
)
def test_orders_that_make_no_sense(registry, text, word):
    with pytest.raises(ConfigError, match=word):
        resolve(text, registry)


def test_an_unknown_name_gets_the_nearest(registry):
    with pytest.raises(RegistryError, match="did you mean think"):
        resolve("thinj", registry)


def test_every_row_brings_its_start(registry):
    found = [p.label({}, registry) for p in pipelines(config("think > judge + choose", "prefer"), registry)]
    assert found == ["base", "think", "think > judge + choose", "think > prefer"]
    assert Pipeline(("think",), "judge", "choose").start == Pipeline(("think",), None, "greedy")
    assert Pipeline((), None, "greedy").start is None


def test_labels_show_what_is_not_the_default(registry):
    options = parse_options(["vote.samples=4", "think.lr=0.1", "think.steps=5"], registry)
    assert options == {"vote": {"samples": 4}, "think": {"steps": 5}}
    assert Pipeline(("think",), None, "vote").label(options, registry) == "think(steps=5) + vote(samples=4)"


@pytest.mark.parametrize(
    "text", ["base", "base > prefer + vote", "prefer", "base > coin + choose", "base + vote", "vote"]
)
def test_a_label_parses_back_to_its_pipeline(registry, text):
    [pipeline] = resolve(text, registry)
    assert resolve(pipeline.label({}, registry), registry) == [pipeline]


def test_options_name_what_they_do_not_know(registry):
    with pytest.raises(RegistryError, match="unknown field of vote 'sample': did you mean samples"):
        parse_options(["vote.sample=4"], registry)
    with pytest.raises(RegistryError, match="unknown method"):
        parse_options(["votes.samples=4"], registry)
    with pytest.raises(ConfigError, match="expected int"):
        parse_options(["vote.samples=four"], registry)


def test_no_stage_is_planned_twice_and_each_comes_after_what_it_needs(registry):
    jobs = make_plan(config(), registry, "cpu").jobs
    keys = [job.key for job in jobs]
    assert len(keys) == len(set(keys))
    for number, job in enumerate(jobs):
        assert set(job.after) <= set(keys[:number])
    stages = [job.spec["method"]["name"] for job in jobs if job.kind == "stage"]
    assert sorted(stages) == ["both", "judge", "prefer", "think"]
    assert [job.kind for job in jobs].index("timing") > max(i for i, job in enumerate(jobs) if job.kind == "answers")


def key_of(registry, label="think + vote", device="cpu", **changes):
    made = make_plan(config("vote", "prefer", **changes), registry, device)
    return next(j.key for j in made.jobs if j.kind == "answers" and j.spec["row"]["pipeline"].startswith(label))


def test_a_key_covers_everything_that_shapes_the_result(registry):
    other_data = dataclasses.replace(config("vote", "prefer"), dataset="e")
    edited = {**registry.methods, "vote": dataclasses.replace(registry.methods["vote"], source="edited")}
    other_start = {**registry.methods, "think": dataclasses.replace(registry.methods["think"], source="edited")}
    others = {**registry.others, "datasets": {"d": ("", None), "e": ("", None)}}
    wide = FakeRegistry((), registry.methods, others)
    keys = [
        key_of(registry),
        key_of(registry, seeds=(1,)),
        key_of(registry, limit=5),
        key_of(registry, train_tokens=5),
        key_of(registry, question_tokens=5),
        key_of(registry, "think + vote(", options={"vote": {"samples": 4}}),
        key_of(registry, "think(", options={"think": {"lr": 0.2}}),
        key_of(registry, device="cuda"),
        key_of(FakeRegistry((), edited, registry.others)),
        key_of(FakeRegistry((), other_start, registry.others)),
        next(j.key for j in make_plan(other_data, wide, "cpu").jobs if j.spec.get("row", {}).get("method") == "vote"),
    ]
    assert len(set(keys)) == len(keys)
    assert key_of(registry) == key_of(registry, jobs=7, timeout_s=1.0)  # what does not shape it is not in it


@pytest.mark.parametrize(("asked", "planned"), [(None, 80), (5, 5), (2000, 2000)])
def test_a_run_answers_as_many_problems_as_were_asked_for_or_as_the_dataset_says(registry, asked, planned):
    made = make_plan(config("vote", limit=asked), registry, "cpu")
    assert {job.spec["limit"] for job in made.jobs if job.kind != "stage"} == {planned}
    stages = [
        {job.key for job in plan.jobs if job.kind == "stage"}
        for plan in (made, make_plan(config("vote"), registry, "cpu"))
    ]
    assert stages[0] == stages[1]  # training does not depend on it


def test_what_was_left_open_is_the_same_request_as_what_the_dataset_has(registry):
    assert settled(config("vote"), registry) == config("vote", limit=80, train_tokens=1000)
    asked = config("vote", limit=5, train_tokens=7)
    assert settled(asked, registry) == asked


def test_two_models_share_nothing(registry):
    plans = [make_plan(dataclasses.replace(config(), model=name), registry, "cpu").jobs for name in ("m", "n")]
    assert not {job.key for job in plans[0]} & {job.key for job in plans[1]}


def test_seeds_multiply_the_cells(registry):
    one, two = (make_plan(config("vote", seeds=seeds), registry, "cpu").jobs for seeds in ((0,), (0, 1)))
    assert len(two) == 2 * len(one)


def test_the_revision_of_a_teacher_is_part_of_the_key(registry):
    def keys(teacher, weights):
        class Other(FakeRegistry):
            def spec(self, kind, name):
                found = super().spec(kind, name)
                return dataclasses.replace(found, revision=lambda: weights) if name == teacher else found

        learn = info("learn", ("train",), models=("teacher",), fields={"teacher": teacher})
        other = Other((), {**registry.methods, "learn": learn}, registry.others)
        return {job.key for job in make_plan(config("learn"), other, "cpu").jobs if job.kind == "stage"}

    assert keys("n", "a") == keys("n", "a")
    assert keys("n", "a") != keys("n", "b")


def test_a_teacher_that_is_not_there_ends_the_plan(registry):
    class Strict(FakeRegistry):
        def spec(self, kind, name):
            return super().spec(kind, name) if name in self.others[kind] else Registry.spec(self, kind, name)

    learn = info("learn", ("train",), models=("teacher",), fields={"teacher": "nobody"})
    with pytest.raises(RegistryError, match="unknown model 'nobody'"):
        make_plan(config("learn"), Strict((), {**registry.methods, "learn": learn}, registry.others), "cpu")


def test_only_what_takes_any_scorer_shows_what_one_is_worth(registry):
    plan = make_plan(config("judge", "beams", "vote"), registry, "cpu")
    rows = {job.spec["row"]["pipeline"]: job.spec["row"]["shows_scorer"] for job in plan.jobs if job.kind == "answers"}
    assert {name for name, shows in rows.items() if shows} == {"think > judge + choose"}
    assert {"think > judge + beams", "think + vote"} <= set(rows)


def test_a_curve_is_the_same_answers_with_other_widths_and_is_not_timed(registry, monkeypatch):
    monkeypatch.setattr("harness.plan.build_method", lambda info, fields: None)
    plan = make_plan(config("vote", "prefer", curve=(4, 16, 32)), registry, "cpu")
    points = [job for job in plan.jobs if job.spec.get("row", {}).get("curve")]
    assert [(job.kind, job.spec["row"]["pipeline"]) for job in points] == [
        ("answers", "think + vote(samples=4)"),
        ("answers", "think + vote(samples=32)"),  # 16 is the row itself
    ]
    assert [job.spec["method"]["config"] for job in points] == [{"samples": 4}, {"samples": 32}]
    assert {job.spec["row"]["scales"] for job in points} == {"samples"}
    usual = make_plan(config("vote", "prefer"), registry, "cpu")
    assert {job.key for job in plan.jobs} - {job.key for job in points} == {job.key for job in usual.jobs}
    by_hand = make_plan(config("vote", options={"vote": {"samples": 4}}), registry, "cpu")
    assert points[0].key not in {job.key for job in by_hand.jobs}  # or the row would have no place on its board


def test_the_default_width_is_on_the_curve_of_another(registry, monkeypatch):
    monkeypatch.setattr("harness.plan.build_method", lambda info, fields: None)
    asked = config("vote", curve=(16, 4), options={"vote": {"samples": 4}})
    plan = make_plan(asked, registry, "cpu")
    points = [job.spec["row"]["pipeline"] for job in plan.jobs if job.spec.get("row", {}).get("curve")]
    assert points == ["think + vote"]


def test_a_width_that_the_method_refuses_is_left_out(registry, monkeypatch):
    def build(info, fields):
        if fields["samples"] % 4:
            raise ValueError

    monkeypatch.setattr("harness.plan.build_method", build)
    vote = Pipeline(("think",), None, "vote")
    assert [point.width for point in curve(vote, config(curve=(2, 4, 6, 8)), registry)] == [4, 8]
    with pytest.raises(ConfigError, match="--curve 2,6: no method asked for can be given one of these widths"):
        pipelines(config("vote", curve=(2, 6)), registry)
    with pytest.raises(ConfigError, match="no method asked for"):
        pipelines(config("prefer", curve=(4,)), registry)
