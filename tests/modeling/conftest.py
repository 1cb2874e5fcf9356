"""What the modelling tests share."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from tests.support import tiny


@pytest.fixture(autouse=True)
def same_random_numbers() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def family_batches() -> Any:
    """`family_batches(family)`: token ids of three texts of different lengths, each unpadded, on its own."""

    def build(family: str) -> list[list[int]]:
        tokenizer = tiny.tokenizer(family)
        return tokenizer([" ".join(tiny.WORDS[2:11]), "the zorp runs .", "wug"])["input_ids"]

    return build
