"""The registry: finds plugins, guards against broken ones, and knows every method, model, dataset, metric and device.

Plugins are scanned in a child process, one at a time, so that one that raises, calls `sys.exit` or crashes the
interpreter at import is a line in `harness plugins` and nothing more. What the scan finds is plain data and is kept in
a cache, keyed by every plugin's version and files: listing and planning then need neither torch nor the plugins.
"""

from __future__ import annotations

import contextlib
import dataclasses
import difflib
import hashlib
import importlib
import importlib.metadata
import importlib.util
import inspect
import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import platformdirs
import pluggy

from harness import contracts, hookspecs

GROUP = "harness"
BUILTIN = {name: f"harness.builtin.{name}" for name in ("datasets", "devices", "metrics", "models")}
VERBS = {"train": contracts.Trainer, "answer": contracts.Answerer, "score": contracts.Scorer}
CACHED_SCANS = 8
"""Several installations side by side share one cache folder, and must not scan for one another."""
FAMILIES = ("fine-tuning", "reinforcement-learning", "test-time", "control")
SCAN_LIMIT_S = 120.0


class RegistryError(Exception):
    """A name that is unknown or claimed twice; the message says what to do."""


@dataclass(frozen=True)
class Plugin:
    """One plugin: where it comes from, what it brings, and what went wrong."""

    name: str
    module: str
    distribution: str
    version: str
    error: str = ""
    methods: tuple[Mapping[str, Any], ...] = ()
    others: Mapping[str, tuple[Mapping[str, str], ...]] = field(default_factory=dict)
    """`models`, `datasets`, `metrics`, `devices`: name and summary of each."""


@dataclass(frozen=True)
class MethodInfo:
    """What is known of a method without importing it."""

    name: str
    family: str
    verbs: tuple[str, ...]
    after: tuple[str, ...]
    needs: tuple[str, ...]
    models: tuple[str, ...]
    """Fields that name another model."""
    upper_bound: bool
    scales: str
    """The field that curves vary; empty where there is none."""
    trains_policy: bool
    """It scores, and what it trained answers as well."""
    summary: str
    fields: Mapping[str, Any]
    """Defaults of the hyper-parameters."""
    source: str
    """sha256 of the module's text: a method that was edited is another method."""
    module: str
    distribution: str
    version: str


@dataclass(frozen=True)
class Registry:
    """Everything that plugins registered, by name."""

    plugins: tuple[Plugin, ...]
    methods: Mapping[str, MethodInfo]
    others: Mapping[str, Mapping[str, tuple[str, Plugin]]]
    """kind -> name -> (summary, plugin)."""

    def method(self, name: str) -> MethodInfo:
        """The method of that name; RegistryError with the nearest names otherwise."""
        return self.methods[find(name, self.methods, "method")]

    def spec(self, kind: str, name: str) -> Any:
        """The ModelSpec, DatasetSpec, DeviceSpec or Metric of that name, from its plugin, imported now."""
        name = find(name, self.others[kind], kind.removesuffix("s"))
        _, plugin = self.others[kind][name]
        return next(s for s in call_hook(importlib.import_module(plugin.module), kind) if s.name == name)

    def specs(self, kind: str) -> list[Any]:
        """Every spec of that kind, in the order of the plugins."""
        return [self.spec(kind, name) for name in self.others[kind]]


def find(name: str, known: Iterable[str], what: str) -> str:
    """`name` if it is known; otherwise RegistryError with the nearest names."""
    names = sorted(known)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.5)
    hint = f"did you mean {' or '.join(near)}?" if near else f"known: {', '.join(names) or 'none'}"
    msg = f"unknown {what} {name!r}: {hint}"
    raise RegistryError(msg)


def call_hook(module: Any, kind: str) -> list[Any]:
    """What one plugin module returns for hook `harness_<kind>`; empty where it does not implement it."""
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    manager.register(module)
    return [item for found in getattr(manager.hook, f"harness_{kind}")() for item in found]


# -- scanning: runs in a child process


def describe_method(cls: type) -> dict[str, Any]:
    """Plain data of a method class.

    Raises:
        TypeError: the class is not a method; the message says what is missing.
    """
    name = getattr(cls, "name", None)
    if not isinstance(name, str) or not dataclasses.is_dataclass(cls):
        msg = f"{cls.__qualname__} is not a method: it needs @dataclass(frozen=True) and a `name`"
        raise TypeError(msg)
    verbs = [verb for verb, contract in VERBS.items() if issubclass(cls, contract)]
    family = getattr(cls, "family", "")
    if not verbs or family not in FAMILIES:
        msg = f"{name}: needs a verb of {', '.join(VERBS)} and a family of {', '.join(FAMILIES)}"
        raise TypeError(msg)
    fields = {f.name: f.default for f in dataclasses.fields(cls)}
    scales = getattr(cls, "scales", "")
    if scales and not isinstance(fields.get(scales), int):
        msg = f"{name}: `scales` is {scales!r}, which is no field of whole numbers"
        raise TypeError(msg)
    module = sys.modules[cls.__module__]
    doc = (cls.__doc__ if cls.__doc__ and not cls.__doc__.startswith(f"{cls.__name__}(") else module.__doc__) or ""
    return {
        "name": name,
        "family": family,
        "verbs": verbs,
        "after": list(getattr(cls, "after", ())),
        "needs": list(getattr(cls, "needs", ())),
        "models": list(getattr(cls, "models", ())),
        "upper_bound": bool(getattr(cls, "upper_bound", False)),
        "scales": scales,
        "trains_policy": bool(getattr(cls, "trains_policy", False)),
        "summary": doc.strip().split("\n", maxsplit=1)[0],
        "fields": fields,
        "source": hashlib.sha256(inspect.getsource(module).encode()).hexdigest(),
    }


def scan_plugin(module_name: str) -> dict[str, Any]:
    """Import one plugin and describe all that it brings."""
    module = importlib.import_module(module_name)
    found: dict[str, Any] = {"methods": [describe_method(cls) for cls in call_hook(module, "methods")]}
    for kind in ("models", "datasets", "metrics", "devices"):
        found[kind] = [{"name": s.name, "summary": s.summary} for s in call_hook(module, kind)]
    json.dumps(found, allow_nan=False)  # a default that is not plain data is the plugin's fault, and found here
    return found


def scan_main(modules: list[str], out: Path) -> None:
    """Scan plugins one by one; a line is written before and after each, so that a crash names its plugin."""
    with out.open("a", encoding="utf-8") as lines:
        for module in modules:
            lines.write(json.dumps({"begin": module}) + "\n")
            lines.flush()
            try:
                result = {"module": module, **scan_plugin(module)}
            except KeyboardInterrupt:
                raise
            except BaseException as error:  # noqa: BLE001 - sys.exit at import included: nothing may pass
                text = " ".join(f"{type(error).__name__}: {error}".split())
                result = {"module": module, "error": text[:300]}
            lines.write(json.dumps(result) + "\n")
            lines.flush()


# -- discovery: runs in the process that asks


def discover() -> list[Plugin]:
    """Every plugin that is installed or built in and not disabled by HARNESS_DISABLE, unscanned, sorted by name."""
    disabled = {n.strip() for n in os.environ.get("HARNESS_DISABLE", "").split(",") if n.strip()}
    version = importlib.metadata.version("posttrain-harness")
    plugins = [Plugin(name, module, "posttrain-harness", version) for name, module in BUILTIN.items()]
    for entry in importlib.metadata.entry_points(group=GROUP):
        dist = entry.dist
        plugins.append(Plugin(entry.name, entry.module, dist.name if dist else "?", dist.version if dist else "?"))
    unique = {(p.name, p.module): p for p in plugins}  # an editable install may list an entry twice
    return sorted((p for p in unique.values() if p.name not in disabled), key=lambda p: (p.name, p.module))


def fingerprint(plugins: list[Plugin]) -> str:
    """Hash that changes when any plugin, its version or any file of its package changes."""
    packages: dict[str, list[Any]] = {}
    for top in {p.module.partition(".")[0] for p in plugins}:
        spec = importlib.util.find_spec(top)
        folders = list(spec.submodule_search_locations or ()) if spec else []
        files = [f for folder in folders for f in sorted(Path(folder).rglob("*.py"))]
        files += [Path(spec.origin)] if spec and spec.origin and not folders else []
        packages[top] = [(str(f), f.stat().st_mtime_ns, f.stat().st_size) for f in files]
    text = json.dumps([sys.version, [(p.name, p.module, p.version) for p in plugins], sorted(packages.items())])
    return hashlib.sha256(text.encode()).hexdigest()


def scan(plugins: list[Plugin], folder: Path) -> dict[str, dict[str, Any]]:
    """Scan results by module. A child that dies is started again without the plugin that killed it."""
    out = folder / f"scan-{os.getpid()}.jsonl"
    out.unlink(missing_ok=True)
    todo = [p.module for p in plugins]
    results: dict[str, dict[str, Any]] = {}
    while todo:
        command = [sys.executable, "-m", "harness.registry", str(out), *todo]
        quiet = subprocess.DEVNULL
        try:
            child = subprocess.run(command, check=False, stdin=quiet, stdout=quiet, stderr=quiet, timeout=SCAN_LIMIT_S)  # noqa: S603 - our own interpreter and module
            end = f"exit code {child.returncode}"
        except subprocess.TimeoutExpired:
            end = f"no answer in {SCAN_LIMIT_S:.0f} s"
        lines = [json.loads(line) for line in out.read_text(encoding="utf-8").splitlines()] if out.exists() else []
        results.update({line["module"]: line for line in lines if "module" in line})
        begun = [line["begin"] for line in lines if "begin" in line]
        culprit = next((m for m in begun if m not in results), None)
        if culprit is None and any(m not in results for m in todo):
            culprit = next(m for m in todo if m not in results)
        if culprit is not None:
            results[culprit] = {"module": culprit, "error": f"ended the interpreter at import ({end})"}
        todo = [m for m in todo if m not in results]
    out.unlink(missing_ok=True)
    return results


def scanned() -> list[Plugin]:
    """Every plugin with what it brings, from the cache where nothing changed."""
    plugins = discover()
    folder = platformdirs.user_cache_path("harness")
    cache = folder / f"plugins-{fingerprint(plugins)[:24]}.json"
    try:
        results = json.loads(cache.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        results = _scan_and_keep(plugins, folder, cache)
    filled = []
    for plugin in plugins:
        found = results[plugin.module]
        others = {kind: tuple(found.get(kind, ())) for kind in ("models", "datasets", "metrics", "devices")}
        methods, error = tuple(found.get("methods", ())), found.get("error", "")
        filled.append(dataclasses.replace(plugin, methods=methods, others=others, error=error))
    return filled


def _scan_and_keep(plugins: list[Plugin], folder: Path, cache: Path) -> dict[str, dict[str, Any]]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:  # a home that cannot be written is no reason to fail: scan into the temporary folder, keep nothing
        import tempfile  # noqa: PLC0415 - rare path

        with tempfile.TemporaryDirectory() as temporary:
            return scan(plugins, Path(temporary))
    results = scan(plugins, folder)
    if not any(r.get("error") for r in results.values()):  # a broken plugin is tried again every time
        draft = cache.with_suffix(f".{os.getpid()}.tmp")
        draft.write_text(json.dumps(results), encoding="utf-8")
        draft.replace(cache)
        _forget_old(folder)
    return results


def _forget_old(folder: Path) -> None:
    """Remove what has not been written for longest: every edit of a plugin makes another file."""
    found = []
    for path in folder.glob("plugins-*.json"):
        with contextlib.suppress(FileNotFoundError):  # another process tidies as well
            found.append((path.stat().st_mtime, path))
    for _, path in sorted(found)[:-CACHED_SCANS]:
        path.unlink(missing_ok=True)


def load() -> Registry:
    """The registry of everything installed.

    Raises:
        RegistryError: two plugins claim the same name.
    """
    plugins = scanned()
    methods: dict[str, MethodInfo] = {}
    others: dict[str, dict[str, tuple[str, Plugin]]] = {k: {} for k in ("models", "datasets", "metrics", "devices")}
    owner: dict[tuple[str, str], Plugin] = {}
    for plugin in plugins:
        for method in plugin.methods:
            _claim(owner, ("method", method["name"]), plugin)
            lists = {k: tuple(method[k]) for k in ("verbs", "after", "needs", "models")}
            origin = {"module": plugin.module, "distribution": plugin.distribution, "version": plugin.version}
            methods[method["name"]] = MethodInfo(**{**method, **lists, **origin})
        for kind, items in plugin.others.items():
            for item in items:
                _claim(owner, (kind.removesuffix("s"), item["name"]), plugin)
                others[kind][item["name"]] = (item["summary"], plugin)
    return Registry(tuple(plugins), dict(sorted(methods.items())), others)


def _claim(owner: dict[tuple[str, str], Plugin], claim: tuple[str, str], plugin: Plugin) -> None:
    if (first := owner.setdefault(claim, plugin)) is not plugin:
        kind, name = claim
        msg = (
            f"{kind} {name!r} is claimed by two plugins: {first.name} ({first.distribution}) and "
            f"{plugin.name} ({plugin.distribution}); disable one with HARNESS_DISABLE={plugin.name}"
        )
        raise RegistryError(msg)


def build_method(info: MethodInfo, config: Mapping[str, Any]) -> Any:
    """The method itself, imported now, with `config` in place of its defaults."""
    module = importlib.import_module(info.module)
    cls = next(c for c in call_hook(module, "methods") if c.name == info.name)
    return cls(**config)


if __name__ == "__main__":
    scan_main(sys.argv[2:], Path(sys.argv[1]))
