"""What the pages point at exists, and what they tell one to type is understood."""

import re
import shlex
from collections.abc import Iterator
from fnmatch import fnmatch
from functools import cache
from pathlib import Path

import click
import pytest
import typer

from flower_dfl.cli.app import application, read_config
from flower_dfl.errors import DflError
from tests.docs.markdown import ROOT, blocks, pages, prose, repository_files

_LINK = re.compile(r"\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)")
_CODE = re.compile(r"`([^`]+)`")
_ELSEWHERE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)  # https:, mailto:
_PATH = re.compile(r"[\w.*-]+(/[\w.*-]+)+/?|[\w.-]+/")
_INLINE = re.compile(r"flower-dfl [a-z]")
_SHELLS = frozenset({"bash", "sh", "console", "shell"})

PAGES = [pytest.param(page, id=str(page.relative_to(ROOT))) for page in pages()]


def test_the_pages_are_found():
    names = {str(page.relative_to(ROOT)) for page in pages()}

    assert {"README.md", "CONTRIBUTING.md", "docs/extending.md", "experiments/README.md"} <= names


@pytest.mark.parametrize("page", PAGES)
def test_every_relative_link_and_picture_leads_to_a_file_of_the_repository(page):
    wrong = [f"line {number}: {target}" for number, target in links(page) if not leads_somewhere(page, target)]

    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_command_line_is_understood(page):
    wrong = [f"line {number}: {words}: {why}" for number, words in commands(page) if (why := complaint(words))]

    assert wrong == []


@pytest.mark.parametrize("page", PAGES)
def test_every_path_of_the_repository_that_is_named_exists(page):
    """A path is checked if it has a slash, no blank, and begins with a folder of the root; ``*`` stands for anything.

    It may be meant from the root or from the page's folder. Paths that begin elsewhere are somebody else's. The words
    of command lines are checked in the same way.
    """
    wrong = [f"line {number}: {path}" for number, path in named_paths(page) if not names_something(page, path)]

    assert wrong == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("flower-dfl rnu", "no command 'rnu'"),
        ("flower-dfl run --enigne local", "--enigne"),
        ("flower-dfl run --engine lokal", "'lokal' is not one of"),
        ("flower-dfl run --set sed=1", "unknown configuration key 'sed'"),
        ("X=1 .venv/bin/flower-dfl run one.toml two.toml", "Got unexpected extra argument"),
        ("cd x && flower-dfl topology --set topology.name", "expected key=value"),
    ],
)
def test_a_wrong_command_line_is_found(tmp_path, text, problem):
    page = tmp_path / "page.md"
    page.write_text(f"```bash\n{text}\n```\n", encoding="utf-8")

    (found,) = commands(page)

    assert problem in complaint(found[1])


def test_command_lines_are_read_as_a_shell_does(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("```bash\nA=1 flower-dfl run \\\n  -s 'a=b # c' # why\nflower-dfl keys | tail > keys.txt\n```\n")

    assert [words for _, words in commands(page)] == [["run", "-s", "a=b # c"], ["keys"]]


def test_dead_links_and_paths_are_found(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("[a](gone.md) ![b](https://example.org/x.png) [c](#gone) `docs/gone.md` `docs/adr/*.md` `a/b`\n")

    assert [target for _, target in links(page) if not leads_somewhere(page, target)] == ["gone.md", "#gone"]
    assert [path for _, path in named_paths(page) if not names_something(page, path)] == ["docs/gone.md"]


def links(page: Path) -> Iterator[tuple[int, str]]:
    """Yield the targets of links and pictures that are not elsewhere, with their lines."""
    for number, line in prose(page):
        for target in _LINK.findall(_CODE.sub("", line)):
            if not _ELSEWHERE.match(target):
                yield number, target


def leads_somewhere(page: Path, target: str) -> bool:
    """Return whether a link leads to a file or folder of the repository, and to a heading if it names one."""
    path, _, anchor = target.partition("#")
    goal = (page.parent / path).resolve() if path else page
    if goal != page and goal not in known():
        return False
    return not anchor or (goal.suffix == ".md" and anchor in anchors(goal))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub gives to the headings of a page."""
    headings = [line.lstrip("#").strip() for _, line in prose(page) if re.match(r"#+ ", line)]
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@cache
def known() -> frozenset[Path]:
    """Return the repository's files and folders; links to what git ignores lead nowhere for a reader."""
    files = {path.resolve() for path in repository_files()}
    return frozenset(files | {folder for path in files for folder in path.parents if folder.is_relative_to(ROOT)})


def named_paths(page: Path) -> Iterator[tuple[int, str]]:
    """Yield what looks like a path of the repository in inline code and command lines, with its line."""
    for number, line in prose(page):
        yield from ((number, code) for code in _CODE.findall(line) if is_path(code))
    for number, words in command_lines(page):
        yield from ((number, word) for word in words if is_path(word))


def is_path(text: str) -> bool:
    """Return whether a text has a slash and begins with a folder of the root."""
    first = text.partition("/")[0]
    return bool(_PATH.fullmatch(text)) and first.strip(".") != "" and ROOT / first in known()


def names_something(page: Path, path: str) -> bool:
    """Return whether a path, possibly with stars, is that of a file or folder."""
    existing = [str(place) for place in known()]
    wanted = [str((folder / path).resolve()) for folder in (ROOT, page.parent)]
    return any(fnmatch(place, pattern) for pattern in wanted for place in existing)


def commands(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the arguments of every ``flower-dfl`` in shell blocks and in inline code, with the line.

    Inline code without options names a command; it need not have what the command cannot do without.
    """
    inline = (
        (number, words if any(word.startswith("-") for word in words) else [*words, "--help"])
        for number, line in prose(page)
        for code in _CODE.findall(line)
        if _INLINE.match(code)
        for words in simple_commands(code)
        if words
    )
    for number, words in (*command_lines(page), *inline):
        if Path(words[0]).name == "flower-dfl":
            yield number, words[1:]


def command_lines(page: Path) -> Iterator[tuple[int, list[str]]]:
    """Yield the commands in the shell blocks of a page, with the line on which their block begins."""
    for block in blocks(page):
        if block.language in _SHELLS:
            for line in block.text.replace("\\\n", " ").splitlines():
                yield from ((block.line, words) for words in simple_commands(line.removeprefix("$ ")) if words)


def simple_commands(line: str) -> Iterator[list[str]]:
    """Split a line at pipes and the like; drop variables in front, comments, and redirections behind."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;<>")
    lexer.whitespace_split = True
    words: list[str] = []
    cut = False
    for word in [*lexer, ";"]:
        if set(word) <= set("|&;"):
            yield words
            words, cut = [], False
        elif set(word) <= set("<>"):
            cut = True
        elif not cut and (words or not re.match(r"\w+=", word)):
            words.append(word)


def complaint(words: list[str]) -> str:
    """Return what ``flower-dfl`` would say against these arguments before it does anything; nothing if all is well."""
    command, rest = typer.main.get_command(application), list(words)
    while isinstance(command, click.Group):
        name = rest.pop(0) if rest else ""
        found = command.get_command(click.Context(command), name)
        if found is None:
            return "" if name == "--help" else f"no command {name!r}"
        command = found
    try:
        settings = command.make_context("flower-dfl", rest).params
        read_config(None, settings.get("assignments"), None)
    except (click.ClickException, DflError) as error:
        return error.format_message() if isinstance(error, click.ClickException) else str(error)
    except click.exceptions.Exit:
        pass  # --help
    return ""
