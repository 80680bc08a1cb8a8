"""What the examination of one data set gives back."""

from dataclasses import dataclass, field
from pathlib import Path

from .finding import Finding


@dataclass
class Summary:
    """Findings about one data set, and its image files.

    Args:
        findings: What was found.
        images: Image files that the data set loads.
        sizes: (height, width) that the annotations announce, by path.
    """

    findings: list[Finding] = field(default_factory=list)
    images: list[Path] = field(default_factory=list)
    sizes: dict[str, tuple[int, int]] = field(default_factory=dict)

    def add(self, level: str, where: str, message: str, fix: str = '') -> None:
        """Append a finding."""
        self.findings.append(Finding(level, where, message, fix))
