"""Markdown as the tests of the documentation read it: fenced blocks, prose, and the repository's files."""

import re
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]

_FENCE = re.compile(r"^ *```(\w*)\s*$")
_FILE_COMMENT = re.compile(r"^# ([\w./-]+\.\w+)$")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, and the line on which the text begins."""

    language: str
    text: str
    line: int

    @property
    def file(self) -> str | None:
        """The file that the block is to be saved as: named by a comment that is its whole first line."""
        named = _FILE_COMMENT.match(self.text.partition("\n")[0])
        return named[1] if named else None


def repository_files() -> set[Path]:
    """Return the files that a reader of the repository gets: all that git tracks or would add."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    return {ROOT / name for name in listed.split("\0") if name and (ROOT / name).exists()}


def pages() -> list[Path]:
    """Return the repository's Markdown files."""
    return sorted(path for path in repository_files() if path.suffix == ".md")


def blocks(page: Path) -> list[Block]:
    """Return the fenced blocks of a page, in order."""
    return [part for part in _parts(page.read_text(encoding="utf-8")) if isinstance(part, Block)]


def prose(page: Path) -> list[tuple[int, str]]:
    """Return the lines outside fenced blocks, with their numbers."""
    return [part for part in _parts(page.read_text(encoding="utf-8")) if isinstance(part, tuple)]


def _parts(text: str) -> Iterator[Block | tuple[int, str]]:
    language, begin, body = None, 0, []
    for number, line in enumerate(text.splitlines(), start=1):
        fence = _FENCE.match(line)
        if fence and language is None:
            language, begin, body = fence[1], number + 1, []
        elif fence:
            yield Block(language, "".join(f"{part}\n" for part in body), begin)
            language = None
        elif language is None:
            yield number, line
        else:
            body.append(line)
    if language is not None:
        raise ValueError(f"the block that begins in line {begin} has no end")
