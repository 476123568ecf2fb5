"""The five hooks a plugin may implement. Each returns a list; none is called before its list is needed."""

from __future__ import annotations

import pluggy

from harness.contracts import DatasetSpec, DeviceSpec, Metric, ModelSpec

PROJECT = "harness"
hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)


@hookspec
def harness_methods() -> list[type]:  # type: ignore[empty-body]
    """Method classes: frozen dataclasses with a `name` and at least one of the verbs train, answer, score."""


@hookspec
def harness_models() -> list[ModelSpec]:  # type: ignore[empty-body]
    """Models that can be named on the command line."""


@hookspec
def harness_datasets() -> list[DatasetSpec]:  # type: ignore[empty-body]
    """Datasets that can be named on the command line."""


@hookspec
def harness_metrics() -> list[Metric]:  # type: ignore[empty-body]
    """Figures computed from the facts of a cell."""


@hookspec
def harness_devices() -> list[DeviceSpec]:  # type: ignore[empty-body]
    """Devices, in the order in which `auto` tries them."""
