"""What `harness doctor` looks at: versions, devices with a self-check of each, plugins, and where caches lie."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from typing import Any

import platformdirs

from harness.registry import Registry

PACKAGES = ("posttrain-harness", "torch", "transformers", "datasets", "pandas", "pluggy", "click")


def examine(registry: Registry) -> list[dict[str, str]]:
    """Rows of `what`, `state` (ok, absent or bad) and `detail`."""
    rows = [_row("python", "ok", f"{platform.python_version()} on {platform.platform()}, {os.cpu_count()} cores")]
    rows += [_row(name, "ok", importlib.metadata.version(name)) for name in PACKAGES]
    for plugin in registry.plugins:
        if plugin.error:
            rows.append(_row(f"plugin {plugin.name}", "bad", plugin.error))
    rows += [_device(registry, spec) for spec in registry.specs("devices")]
    rows.append(_row("plugin cache", "ok", str(platformdirs.user_cache_path("harness"))))
    hub = os.environ.get("HF_HOME", "~/.cache/huggingface")
    offline = ", offline" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
    rows.append(_row("model cache", "ok", f"{hub}{offline}"))
    return rows


def _device(registry: Registry, spec: Any) -> dict[str, str]:
    from harness.builtin.devices import self_check  # noqa: PLC0415 - imports torch

    device = spec.make()
    if not device.available():
        return _row(f"device {spec.name}", "absent", "not on this machine")
    model = next(iter(registry.others["models"]))
    try:
        difference = self_check(device, registry.spec("models", model).load(device))
    except Exception as error:  # noqa: BLE001 - the doctor reports whatever is wrong
        return _row(f"device {spec.name}", "bad", f"{type(error).__name__}: {error}")
    return _row(f"device {spec.name}", "ok", f"logits within {difference:.1e} of the CPU's")


def _row(what: str, state: str, detail: str) -> dict[str, str]:
    return {"what": what, "state": state, "detail": detail}
