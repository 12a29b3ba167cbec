"""An accelerator written as a file is read back as the same."""

from __future__ import annotations

import pytest

from tvm_spm.arch import archs, load_arch, parse_arch
from tvm_spm.arch_text import toml_of


@pytest.mark.parametrize("name", archs())
def test_a_written_accelerator_is_read_back(name):
    arch = load_arch(name)
    assert parse_arch(toml_of(arch), origin="written") == arch
