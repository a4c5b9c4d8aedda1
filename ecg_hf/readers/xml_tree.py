"""XML of strangers: bounded, without entities, without a look at other files or the network."""

from __future__ import annotations

from collections.abc import Iterator
from xml.etree.ElementTree import Element, ParseError

from ..ecg_transformer.wfdb_ecg_transformer import RecordError
from .checks import bytes_of
from .formats import need

MAX_XML_BYTES = 2**26
"""The largest XML file that is read: a tree takes several times the memory of its text. An ECG of ten seconds has a
thousandth of it."""


def root_of(path: str, part: str | None, format_name: str) -> Element:
    """The root of an XML file; `RecordError` for what is damaged or uses entities.

    A DOCTYPE is allowed, which MUSE always writes; the file that it names is not opened.
    """
    defused = need("defusedxml.ElementTree", format_name)
    data = bytes_of(path, part, MAX_XML_BYTES)
    try:
        return defused.fromstring(data, forbid_dtd=False, forbid_entities=True, forbid_external=True)
    except ParseError as error:
        line, column = error.position
        raise RecordError(f"its XML is cut or damaged at line {line}, column {column + 1}.") from None
    except (ValueError, LookupError):
        # Of defusedxml, and of the parser for an encoding that Python does not know.
        raise RecordError("its XML defines entities, refers to other files or has an unknown encoding.") from None


def local_name(element: Element) -> str:
    """The name without its namespace, which files leave out or spell differently."""
    return element.tag.rpartition("}")[2] if isinstance(element.tag, str) else ""


def children(element: Element, *names: str) -> Iterator[Element]:
    """The elements at a path of local names below `element`, and nowhere deeper."""
    if not names:
        yield element
        return
    for child in element:
        if local_name(child) == names[0]:
            yield from children(child, *names[1:])


def child(element: Element, name: str) -> Element | None:
    """The one child of that name, None if there is none; `RecordError` if there are several."""
    found = list(children(element, name))
    if len(found) > 1:
        raise RecordError(f"its {local_name(element)} has {len(found)} elements {name}; expected one.")
    return found[0] if found else None


def text_of(element: Element, name: str) -> str | None:
    """The text of the one child of that name, stripped; None if it is absent or empty."""
    found = child(element, name)
    return None if found is None else (found.text or "").strip() or None


__all__ = ["MAX_XML_BYTES", "child", "children", "local_name", "root_of", "text_of"]
