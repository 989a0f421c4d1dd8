"""Networks this small run slower on two threads than on one."""

import pytest
import torch


@pytest.fixture(autouse=True)
def _one_thread(_two_threads: None) -> None:
    """One thread, after the setting that every test gets."""
    torch.set_num_threads(1)
