"""Weights from outside: safetensors and GGUF only; nothing is ever unpickled. Importing this loads no library."""

from __future__ import annotations

from itune.weights.resolve import resolve

__all__ = ["resolve"]
