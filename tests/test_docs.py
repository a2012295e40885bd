"""The documents say what the code does, where a program can tell."""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path

import pytest

from bothends import __version__
from bothends.cli import _parser
from bothends_protocol.causes import PATH_CAUSES, SERVICE_CAUSES
from bothends_protocol.codes import CODES
from bothends_protocol.messages import BYES, REFUSALS, Message
from bothends_protocol.verdict import EXIT_STATUS

ROOT = Path(__file__).resolve().parents[1]
DOCS = sorted(ROOT.glob("docs/*.md"))
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *DOCS]
PLACES = ("bothends_protocol", "bothends", "bothends.witness")

NAMED = {cause.code for cause in PATH_CAUSES} | {cause.code for cause in SERVICE_CAUSES}
WARNINGS = {"network.loss", "network.partial", "network.mtu"}
NO_LIMITS = {
    ("ports", "MAX_PORT"),  # a fact
    ("code", "MAX_NUMBER"),
}

LIMIT = re.compile(r"`(\w+)\.(_?[A-Z][A-Z0-9_]*)` = (-?[\d.,]*\d)")
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")
HEADING = re.compile(r"^### `([\w.-]+)`$", re.MULTILINE)


def text(name: str) -> str:
    return (ROOT / name).read_text(encoding="utf-8")


# --- causes ---------------------------------------------------------------------------------


def test_every_cause_has_one_heading() -> None:
    headings = HEADING.findall(text("docs/causes.md"))
    assert sorted(headings) == sorted(set(headings))
    assert set(headings) >= NAMED
    assert set(headings) - NAMED <= {*WARNINGS, "source.name"}


def test_ranking_is_that_of_the_table() -> None:
    section = text("docs/causes.md").split("## Ranking")[1].split("\n## ")[0]
    ranked = re.findall(r"^\d+\. `([\w.-]+)`$", section, re.MULTILINE)
    assert ranked == [cause.code for cause in PATH_CAUSES]


def test_all_known_codes_are_spoken_of_and_no_others() -> None:
    page = text("docs/causes.md")
    spoken = set(
        re.findall(r"`((?:address|source|network|nat|destination|service)\.[a-z-]+)`", page)
    )
    assert spoken == set(CODES)


def test_what_is_said_to_be_unnamed_is() -> None:
    section = text("docs/causes.md").split("## Known codes that nothing names yet")[1]
    unnamed = set(re.findall(r"`([\w.-]+)`", section))
    assert unnamed == set(CODES) - NAMED - WARNINGS - {"source.name"}


# --- the command line -----------------------------------------------------------------------


def _options(parser: argparse.ArgumentParser) -> Iterator[str]:
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for command in action.choices.values():
                yield from _options(command)


def test_every_option_is_in_the_readme_and_no_other() -> None:
    options = set(_options(_parser()))
    readme = text("README.md")
    said = set(re.findall(r"`(?:[\w ]*)(--[a-z-]+)", readme)) | set(
        re.findall(r"(?<![\w-])(--[a-z][a-z-]*)", readme)
    )
    assert {option for option in options if option.startswith("--")} == said
    assert "`-v`" in readme


def test_every_exit_status_is_in_the_readme() -> None:
    rows = dict(re.findall(r"^\| ([A-Z ]+) \| (\d+) \|", text("README.md"), re.MULTILINE))
    heads = {"open": "OPEN", "blocked": "BLOCKED", "undetermined": "CANNOT TELL"}
    for status, code in EXIT_STATUS.items():
        assert rows[heads.get(status, "NO CONTACT")] == str(code)


def test_changelog_knows_the_version() -> None:
    assert __version__ in text("CHANGELOG.md")


# --- numbers, names and links ---------------------------------------------------------------


def _value(module: str, name: str) -> object:
    """The constant; a module of that name may be in both halves."""
    for place in PLACES:
        if importlib.util.find_spec(f"{place}.{module}") is not None:
            found = importlib.import_module(f"{place}.{module}")
            if hasattr(found, name):
                return getattr(found, name)
    raise AssertionError(f"there is no {module}.{name}")


LIMITS = [(path.name, *found) for path in PAGES for found in LIMIT.findall(path.read_text("utf-8"))]


@pytest.mark.parametrize(("page", "module", "name", "value"), LIMITS)
def test_a_limit_has_the_value_that_is_said(page: str, module: str, name: str, value: str) -> None:
    assert _value(module, name) == float(value.replace(",", "")), page


def test_limits_were_found() -> None:
    assert len(LIMITS) > 30


def test_limits_of_the_protocol_are_all_listed() -> None:
    listed = {(module, name) for _, module, name, _ in LIMITS}
    for path in sorted((ROOT / "protocol/bothends_protocol").glob("*.py")):
        for name in re.findall(r"^(MAX_\w+) = ", path.read_text("utf-8"), re.MULTILINE):
            place = path.stem, name
            assert place in listed | NO_LIMITS, f"{path.stem}.{name} is in no document"


def test_messages_and_words_of_the_protocol_are_listed() -> None:
    page = text("docs/protocol.md")
    for kind in Message.__args__:
        assert kind.__name__ in page
    for reason in REFUSALS:
        assert f"`{reason}`" in page
    for reason in BYES:
        assert reason in page


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_links_lead_somewhere(path: Path) -> None:
    for target, _ in LINK.findall(path.read_text("utf-8")):
        if not target.startswith("https://"):
            assert (path.parent / target).exists(), target


@pytest.mark.parametrize("path", DOCS, ids=lambda path: path.name)
def test_every_document_is_linked_from_the_readme(path: Path) -> None:
    assert f"docs/{path.name}" in text("README.md")


def test_modules_of_the_architecture_are_those_there_are() -> None:
    page = text("docs/architecture.md")
    listed = set(re.findall(r"`(\w+)`", page))
    for folder in ("protocol/bothends_protocol", "agent/bothends"):
        names = {path.stem for path in (ROOT / folder).glob("*.py") if "__" not in path.name}
        assert names <= listed, f"{folder}: {sorted(names - listed)} stand nowhere"


def test_dependencies_are_all_explained() -> None:
    project = tomllib.loads(text("pyproject.toml"))["project"]
    wanted = [*project["dependencies"]]
    for extra in project["optional-dependencies"].values():
        wanted += [item for item in extra if not item.startswith("bothends[")]
    page = text("docs/dependencies.md")
    for item in wanted:
        name = re.split(r"[<>=!~;\[ ]", item)[0]
        assert f"`{name}`" in page, f"{name} stands nowhere"
