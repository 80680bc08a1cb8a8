"""Shared set-up: two threads, fixed seeds, the compat layer on."""

import pytest
import torch

from mmpapers import compat

torch.set_num_threads(2)
compat.setup()


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
