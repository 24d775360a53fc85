"""Fixtures of the installation tests."""

from installation import cmake, cmake_dir, generator, torch_root

__all__ = ["cmake", "cmake_dir", "generator", "torch_root"]
