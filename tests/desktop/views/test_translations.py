"""Every string of the window has a Chinese entry, and every entry fits its string."""

from __future__ import annotations

import ast
import string
from pathlib import Path

import pytest
from PySide6.QtCore import QCoreApplication

import desktop
from desktop.app import RESOURCES_DIR
from desktop.document import commands
from desktop.i18n import install_language, read_catalogue, tr
from desktop.views.actions import MENUS
from desktop.views.undo_titles import UNDO_TITLES

SOURCES = Path(desktop.__file__).parent
ENTRIES = read_catalogue(RESOURCES_DIR / "translations" / "flowbrush_zh_CN.ts")


def calls(file: Path) -> list[ast.Call]:
    tree = ast.parse(file.read_text("utf-8"))
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in ("tr", "mark")
    ]


def source_strings() -> set[str]:
    found: set[str] = set()
    for file in SOURCES.rglob("*.py"):
        for call in calls(file):
            if call.args and isinstance(call.args[0], ast.Constant):
                found.add(str(call.args[0].value))
    return found


def test_every_string_has_a_chinese_entry():
    assert source_strings() - ENTRIES.keys() == set()


def test_no_entry_is_left_over():
    assert ENTRIES.keys() - source_strings() == set()


@pytest.mark.parametrize("text", sorted(ENTRIES))
def test_an_entry_has_the_same_fields_as_its_string(text):
    def fields(value: str) -> set[str]:
        return {name for _, name, _, _ in string.Formatter().parse(value) if name is not None}

    assert fields(ENTRIES[text]) == fields(text)


def test_every_undo_step_of_the_document_has_a_title():
    tree = ast.parse(Path(commands.__file__).read_text("utf-8"))
    labels = {
        node.args[0].value
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Attribute)
        and node.func.attr == "commit"
        and isinstance(node.args[0], ast.Constant)
    }
    assert labels - UNDO_TITLES.keys() == set()


def test_no_two_actions_share_a_key():
    keys = [key for _, entries in MENUS for entry in entries for key in entry.keys]
    assert len(keys) == len(set(keys))


def test_texts_change_with_the_language_and_back(qapp):
    assert tr("Fill") == "Fill"
    translators = install_language(qapp, "zh_CN", RESOURCES_DIR / "translations")
    assert tr("Fill") == "填充"
    assert tr("Exported {name}", name="a.png") == "已导出 a.png"
    assert QCoreApplication.translate("elsewhere", "Fill") == "Fill"
    for translator in translators:
        qapp.removeTranslator(translator)
    assert tr("Fill") == "Fill"
