"""Fixtures of the data tests."""

from tests.data.toy import registries, toy

__all__ = ["registries", "toy"]
