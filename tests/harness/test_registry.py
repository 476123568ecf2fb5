"""Discovery: plugins of any quality are found, guarded and told apart."""

import json
import os
import sys

import pytest

from harness import registry as registries
from harness.registry import RegistryError, describe_method, find

METHOD = '''
"""A method of somebody else's."""
from dataclasses import dataclass
from typing import ClassVar
from harness import Answer, hookimpl

@dataclass(frozen=True)
class Echo:
    name: ClassVar[str] = "{name}"
    family: ClassVar[str] = "test-time"
    times: int = 1

    def answer(self, model, prompt, run):
        return Answer(prompt * self.times)

@hookimpl
def harness_methods():
    return [Echo]
'''
HOSTILE = {
    "raises": "raise RuntimeError('broken\\nplugin')",
    "leaves": "import sys; sys.exit(0)",
    "quits": "import os; os._exit(0)",
    "crashes": "import os, signal; os.kill(os.getpid(), signal.SIGSEGV)",
    "nonsense": "from harness import hookimpl\n@hookimpl\ndef harness_methods(): return [int]",
}


@pytest.fixture
def install(tmp_path, monkeypatch):
    """Put a plugin distribution on the path of this process and of its children."""
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(registries.platformdirs, "user_cache_path", lambda _: tmp_path / "cache")
    every = registries.discover  # without the built-in plugins, whose import of torch would take seconds a test
    monkeypatch.setattr(registries, "discover", lambda: [p for p in every() if p.distribution != "posttrain-harness"])

    def put(name, source):
        monkeypatch.delitem(sys.modules, f"plugin_{name}", raising=False)  # of another test, in another folder
        (tmp_path / f"plugin_{name}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"harness_{name}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: harness-{name}\nVersion: 1.0\n", encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[harness]\n{name} = plugin_{name}\n", encoding="utf-8")

    return put


def test_a_plugin_of_another_distribution_is_found(install):
    install("echo", METHOD.format(name="echo"))
    info = registries.load().method("echo")
    assert (info.distribution, info.version, info.verbs, info.fields) == (
        "harness-echo",
        "1.0",
        ("answer",),
        {"times": 1},
    )
    assert info.summary == "A method of somebody else's."
    assert registries.build_method(info, {"times": 2}).answer(None, "ab", None).text == "abab"


def test_a_method_that_marks_itself_is_marked_from_the_cache_as_well(install, monkeypatch):
    mark = 'family: ClassVar[str] = "test-time"\n    trains_policy: ClassVar[bool] = True'
    install("both", METHOD.format(name="both").replace('family: ClassVar[str] = "test-time"', mark))
    install("echo", METHOD.format(name="echo"))
    assert registries.load().method("both").trains_policy is True
    monkeypatch.setattr(registries, "scan", lambda *_: 1 / 0)
    again = registries.load()
    assert again.method("both").trains_policy is True
    assert again.method("echo").trains_policy is False
    assert "trains_policy" not in again.method("both").fields


def test_a_method_scales_by_a_field_of_whole_numbers(install):
    kind = 'family: ClassVar[str] = "test-time"\n    scales: ClassVar[str] = "{}"'
    for name, scales in (("right", "times"), ("wrong", "nothing")):
        source = METHOD.format(name=name)
        install(name, source.replace('family: ClassVar[str] = "test-time"', kind.format(scales)))
    found = registries.load()
    assert found.method("right").scales == "times"
    [error] = [plugin.error for plugin in found.plugins if plugin.error]
    assert "wrong: `scales` is 'nothing', which is no field of whole numbers" in error


def test_hostile_plugins_are_a_line_each_and_nothing_more(install):
    for name, source in HOSTILE.items():
        install(name, source)
    install("echo", METHOD.format(name="echo"))
    registry = registries.load()
    errors = {plugin.name: plugin.error for plugin in registry.plugins if plugin.error}
    assert set(errors) == set(HOSTILE)
    assert errors["raises"] == "RuntimeError: broken plugin"
    assert "exit code 0" in errors["quits"]
    assert "exit code -11" in errors["crashes"]
    assert "int is not a method" in errors["nonsense"]
    assert set(registry.methods) == {"echo"}


def test_a_name_claimed_twice_names_both(install):
    install("one", METHOD.format(name="echo"))
    install("two", METHOD.format(name="echo"))
    with pytest.raises(RegistryError, match=r"'echo'.*harness-one.*harness-two.*HARNESS_DISABLE=two"):
        registries.load()


def test_plugins_can_be_disabled(install, monkeypatch):
    install("one", METHOD.format(name="echo"))
    install("two", METHOD.format(name="echo"))
    monkeypatch.setenv("HARNESS_DISABLE", "two, other")
    assert registries.load().method("echo").distribution == "harness-one"


def test_installations_side_by_side_keep_their_scans(install, tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    folder.mkdir()
    for age in range(20):
        other = folder / f"plugins-{age:024}.json"
        other.write_text("{}", encoding="utf-8")
        os.utime(other, (1e9 - age, 1e9 - age))
    registries.load()
    left = sorted(path.name for path in folder.glob("plugins-*.json"))
    assert len(left) == registries.CACHED_SCANS
    assert [f"plugins-{age:024}.json" for age in range(7)] == [name for name in left if name.startswith("plugins-0")][
        :7
    ]
    monkeypatch.setattr(registries, "scan", lambda *_: 1 / 0)
    registries.load()  # its own is among them


def test_the_cache_notices_an_edited_plugin(install, tmp_path):
    install("echo", METHOD.format(name="echo"))
    first = registries.load().method("echo")
    assert list((tmp_path / "cache").glob("plugins-*.json"))
    (tmp_path / "plugin_echo.py").write_text(METHOD.format(name="echo") + "# edited\n", encoding="utf-8")
    assert registries.load().method("echo").source != first.source


def test_the_second_look_scans_nothing(install, monkeypatch):
    install("echo", METHOD.format(name="echo"))
    first = registries.load()

    def refuse(plugins, folder):
        message = "scanned again"
        raise AssertionError(message)

    monkeypatch.setattr(registries, "scan", refuse)
    assert registries.load().methods.keys() == first.methods.keys()


def test_listing_needs_no_torch(install):
    before = set(sys.modules)
    registries.load()
    assert "torch" not in set(sys.modules) - before


def test_unknown_names_get_the_nearest():
    with pytest.raises(RegistryError, match="did you mean self-consistency"):
        find("self-consistancy", ["self-consistency", "sft"], "method")
    with pytest.raises(RegistryError, match="known: a, b"):
        find("zzz", ["a", "b"], "method")


def test_what_is_no_method_is_refused():
    class Bare:
        name = "bare"

    with pytest.raises(TypeError, match="dataclass"):
        describe_method(Bare)


def test_built_in_methods_describe_themselves():
    registry = registries.load()
    for info in registry.methods.values():
        assert info.summary.endswith(".")
        assert all(type(default) in (bool, int, float, str) for default in info.fields.values())
        assert set(info.after) <= set(registry.methods)
        json.dumps(dict(info.fields))
