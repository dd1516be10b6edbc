"""The command that fills missing entries."""

from __future__ import annotations
