"""What the window says, in English and Chinese.

Every visible string passes `tr`, which looks it up in the installed Qt translator; English is the
key. The catalogue is a Qt Linguist .ts file that is read as it stands, so there is nothing to
compile and nothing to forget; a test reads the source and fails for a string that has no entry.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

from PySide6.QtCore import QCoreApplication, QLibraryInfo, QLocale, QObject, QTranslator

CONTEXT = "flowbrush"
LANGUAGES = {"en": "English", "zh_CN": "简体中文"}


def tr(text: str, **values: object) -> str:
    """The text in the chosen language, with {names} filled in from `values`."""
    translated = QCoreApplication.translate(CONTEXT, text)
    return translated.format(**values) if values else translated


def mark(text: str) -> str:
    """Marks a text that is stored now and passed to `tr` later, so that the catalogue test sees it."""
    return text


class Catalogue(QTranslator):
    """A translator that answers from {English: translation}.

    Args:
        entries: What to say instead of the English text.
        parent: Qt parent.
    """

    def __init__(self, entries: dict[str, str], parent: QObject | None = None) -> None:
        super().__init__(parent)
        self._entries = entries

    def translate(self, context: str, sourceText: str, disambiguation: str | None = None, n: int = -1) -> str:
        # None is Qt's "not mine"; "" would be an empty text.
        return self._entries.get(sourceText) if context == CONTEXT else None  # type: ignore[return-value]

    def isEmpty(self) -> bool:
        return False


def read_catalogue(path: Path) -> dict[str, str]:
    """Reads the finished entries of a .ts file: English -> translation."""
    entries: dict[str, str] = {}
    for message in ElementTree.parse(path).iter("message"):
        source = message.findtext("source") or ""
        translation = message.find("translation")
        if translation is not None and translation.text and translation.get("type") != "unfinished":
            entries[source] = translation.text
    return entries


def choose_language(wanted: str) -> str:
    """`wanted` if there is such a language, otherwise the one of the desktop's locale."""
    if wanted in LANGUAGES:
        return wanted
    return "zh_CN" if QLocale.system().language() == QLocale.Language.Chinese else "en"


def install_language(app: QCoreApplication, language: str, translations_dir: Path) -> list[QTranslator]:
    """Makes `app` speak a language, Qt's own dialogs included.

    Returns:
        The translators, which the caller keeps and removes before it installs others.
    """
    translators: list[QTranslator] = []
    if language == "en":
        return translators
    qt_texts = QTranslator(app)
    if qt_texts.load(f"qtbase_{language}", QLibraryInfo.path(QLibraryInfo.LibraryPath.TranslationsPath)):
        translators.append(qt_texts)
    translators.append(Catalogue(read_catalogue(translations_dir / f"flowbrush_{language}.ts"), app))
    for translator in translators:
        app.installTranslator(translator)
    return translators
