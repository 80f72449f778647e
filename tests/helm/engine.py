"""Helm's own engine, in a process of its own: Go's signal handlers do not get on with those of our other libraries."""

from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from service.settings import ROOT

CHART: Path = ROOT / "helm"


@cache
def _process() -> ProcessPoolExecutor:
    return ProcessPoolExecutor(1, get_context("spawn"))


def there(function: Callable[[dict[str, Any]], Any], values: dict[str, Any]) -> Any:
    """What a function of this file says of the values."""
    return _process().submit(function, values).result()


def lint(values: dict[str, Any]) -> dict[str, Any]:
    import helm_python

    report: dict[str, Any] = helm_python.lint(CHART, values, strict=True)
    return report


def render(values: dict[str, Any]) -> str | dict[str, str]:
    """The manifests; ValueError for values that the chart refuses."""
    import helm_python

    try:
        with helm_python.Chart.load(CHART) as chart:
            text: str | dict[str, str] = chart.render(values, name="pictures", namespace="art")
            return text
    except helm_python.HelmValuesError as error:
        raise ValueError(str(error)) from None
