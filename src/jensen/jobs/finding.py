"""What a diagnosis finds."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Finding:
    """One fault looked for: a verdict in a sentence, the evidence, and the setting to try."""

    name: str
    ok: bool
    sentence: str
    evidence: dict[str, Any] = field(default_factory=dict)
    try_: str = ""
