"""What the tests with other libraries share."""

from __future__ import annotations

import pytest

# Markers that transformers' own tests carry (`test_upstream.py`), where `--strict-markers` wants all named.
UPSTREAM_MARKERS = (
    "accelerate_tests",
    "flash_attn_3_test",
    "flash_attn_4_test",
    "flash_attn_test",
    "slow",
    "torch_compile_test",
)


def pytest_configure(config: pytest.Config) -> None:
    for name in UPSTREAM_MARKERS:
        config.addinivalue_line("markers", f"{name}: in transformers' own tests")
