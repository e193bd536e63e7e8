"""What `benchmarks/test_speed.py` measures: options, and the name of the command in the JSON."""

from __future__ import annotations

import pytest

from wavernn_fast.machine import machine

_DEFAULTS = {
    "--sizes": ("dual:896,residual:512", "models of random weights, as wavernn-fast bench --size"),
    "--dtypes": ("fp32,fp16,int8", "of the engine"),
    "--threads": ("1", "of engines and baselines"),
    "--streams": ("1,32", "side by side"),
    "--baselines": ("default", "default, all, none, or names"),
}


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("speed")
    for name, (value, words) in _DEFAULTS.items():
        group.addoption(name, default=value, help=f"{words} [{value}]")
    group.addoption("--seconds", type=float, default=0.3, help="of one round [0.3]")
    group.addoption("--turns", type=int, default=5, help="rounds of each row [5]")


def pytest_benchmark_update_machine_info(config: pytest.Config, machine_info: dict) -> None:
    """The facts of `wavernn-fast bench` beside those of pytest-benchmark."""
    machine_info["wavernn_fast"] = machine()
