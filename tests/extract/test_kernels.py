"""Memory does not fill with kernels of shapes that do not come again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from wif_store.extract.float32_linear import needs_float32

SHAPES = """
import ctypes
import wif_store.extract
import torch

class Heap(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in "arena o s n mapped u f used free k".split()]

libc = ctypes.CDLL(None)
libc.mallinfo2.restype = Heap

@torch.inference_mode()
def used(rows):
    for count in rows:
        layer(torch.zeros(count, 256, dtype=torch.bfloat16))
    return libc.mallinfo2().used

layer = torch.nn.Linear(256, 256, bias=False, dtype=torch.bfloat16)
first = used(range(100, 140))
print(used(range(140, 540)) - first)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="glibc alone counts its heap")
@pytest.mark.skipif(needs_float32(torch.bfloat16), reason="this CPU has no bfloat16 products: no kernels")
def test_kernels_of_old_shapes_are_let_go() -> None:
    names = "ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"
    env = {name: value for name, value in os.environ.items() if name not in names}
    grown = subprocess.check_output([sys.executable, "-c", SHAPES], env=env, text=True)
    assert int(grown) < 2**20
