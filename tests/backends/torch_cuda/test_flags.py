"""The kernels with which devices write into each other's memory, on one device."""

from __future__ import annotations

import pytest
import torch

from tests.support.fused import DEVICE, triton_only


@triton_only
@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (700, 24), (9, 3, 2, 8)])
@pytest.mark.parametrize("num", [1, 3])
def test_rows_are_written_where_they_are_wanted_and_nowhere_else(shape: tuple[int, ...], num: int) -> None:
    from backends.torch_cuda.kernels import flags

    rows = torch.randn(shape).to(DEVICE, torch.bfloat16)
    there = torch.zeros((shape[0], num, *shape[1:]), dtype=torch.bfloat16, device=DEVICE)
    for column in range(0, num, 2):
        flags.copy(rows, there[:, column])
    for column in range(num):
        assert torch.equal(there[:, column], rows if column % 2 == 0 else torch.zeros_like(rows))


@triton_only
@pytest.mark.parametrize("length", [1, 5000])
def test_a_flag_is_raised_once_and_the_count_of_who_has_written_is_zero_again(length: int) -> None:
    from backends.torch_cuda.kernels import flags

    rows = torch.randn(length, 4).to(DEVICE)
    there, flag = torch.zeros_like(rows), torch.zeros(1, dtype=torch.int32, device=DEVICE)
    place, arrivals = torch.tensor([flag.data_ptr()], device=DEVICE), torch.zeros_like(flag)
    gone = torch.zeros(1, dtype=torch.int32)
    for _ in range(2):
        flags.copy(rows, there, place, arrivals)
        assert (int(flag), int(arrivals)) == (1, 0)
        flags.await_flags(flag, gone.pin_memory() if DEVICE.type == "cuda" else gone)
        assert int(flag) == 0
    assert torch.equal(there, rows)
