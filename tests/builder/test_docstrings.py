"""The examples in the docstrings of the core rooms run."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import wif_store
from wif_store import builder, format, storage, store

MODULES = [
    f"{room.__name__}.{module.name}"
    for room in (builder, format, storage, store)
    for module in pkgutil.iter_modules(room.__path__)
]


@pytest.mark.parametrize("name", [wif_store.errors.__name__, *MODULES])
def test_the_examples_of_a_module_run(name):
    assert doctest.testmod(importlib.import_module(name)).failed == 0
