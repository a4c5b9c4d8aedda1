"""The text of a card: generated sections between marks, and what people wrote around them.

A section stands between `<!-- generated: NAME -->` and `<!-- /generated -->`. Editors and formatters change line ends
and the blanks in such marks, so that both are matched tolerantly; a mark that is damaged otherwise is an error, since
nobody can tell then which text is whose.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

import yaml

LICENSE_FIELDS = ("license", "license_name", "license_link")

CLOSING = "<!-- /generated -->"
_OPENING = re.compile(r"<!--\s*generated\s*:\s*(?P<name>[\w-]+)\s*-->", re.IGNORECASE)
_CLOSING = re.compile(r"<!--\s*/\s*generated\s*-->", re.IGNORECASE)
# Anything that begins as a mark does; what is neither of the two above is damaged.
_ANY_MARK = re.compile(r"<!?[\s-]*/?\s*generated\b(?:[^\n>]*>|[^\n]*)", re.IGNORECASE)
_HEADING = re.compile(r"^##\s+(.+?)\s*$", re.MULTILINE)
# A card that shares so many headings with the new one was generated, and has lost its marks.
_SHARED_HEADINGS = 3
_METADATA = re.compile(r"\A\s*---[ \t]*\n(?P<yaml>.*?)\n---[ \t]*(?:\n|\Z)", re.DOTALL)
# In the library's default card, which is a template to fill in.
_UNFILLED = "[More Information Needed]"


class _Section(NamedTuple):
    """A generated section: its name, and where in the text it begins and ends."""

    name: str
    start: int
    end: int


def has_sections(card: str, where: str = "The card `README.md`") -> bool:
    """Whether a card has generated sections; `where` names it in the message about damaged marks."""
    return bool(_sections(_unix(card), where))


def update_card(new: str, *older: str) -> str:
    """The card `new`, with the user-written text of `older` ones.

    Text outside the generated sections stays after the section that it followed; text that several cards have stays
    once. Of the metadata, the licence, additional list entries, additional results and fields that the new card lacks
    are kept. A card without any generated section is appended, unless it is the library's unfilled template.

    Raises `ValueError` for metadata that are not YAML, and for a mark that is damaged, which the message names.
    """
    metadata, body = split_metadata(new)
    generated_license = metadata.get("license")
    written: dict[str, list[str]] = {}
    for card in older:
        if _UNFILLED in card:
            continue
        old_metadata, old_body = split_metadata(card)
        _check_marks_are_there(body, old_body)
        metadata = _merge_metadata(metadata, old_metadata)
        if old_metadata.get("license", generated_license) != generated_license:
            metadata |= {name: old_metadata.get(name) for name in LICENSE_FIELDS}
        known = {paragraph for texts in written.values() for text in texts for paragraph in paragraphs(text)}
        for name, text in texts_after_sections(old_body):
            if own := [paragraph for paragraph in paragraphs(text) if paragraph not in known]:
                written.setdefault(name, []).append("\n\n".join(own))
    metadata = {name: value for name, value in metadata.items() if value is not None}
    sections = _sections(body)
    names = ["", *(section.name for section in sections)]
    for name in [name for name in written if name not in names]:
        written.setdefault(names[-1], []).extend(written.pop(name))
    parts = written.get("", [])
    for section in sections:
        parts = [*parts, body[section.start : section.end].strip(), *written.get(section.name, [])]
    return f"---\n{dump_metadata(metadata)}---\n\n" + "\n\n".join(parts) + "\n"


def _check_marks_are_there(new: str, old: str) -> None:
    shared = [heading for heading in _HEADING.findall(old) if heading in _HEADING.findall(new)]
    if not _sections(old) and len(shared) >= _SHARED_HEADINGS:
        raise ValueError(
            f"The card `README.md` is damaged: it has the generated sections {', '.join(shared[:3])}, ..., but none "
            f"of their marks, `<!-- generated: NAME -->` and `{CLOSING}`. Restore the marks, or remove the sections "
            "and leave your own text. Nothing was changed or published."
        )


def paragraphs(text: str) -> list[str]:
    """The paragraphs of a text; a block of code, which may have empty lines, is one."""
    found, open_fence = [], False
    for block in re.split(r"\n\s*\n", text.strip()):
        if open_fence:
            found[-1] += f"\n\n{block.rstrip()}"
        else:
            found.append(block.rstrip())
        open_fence ^= len(re.findall(r"^\s*(?:```|~~~)", block, re.MULTILINE)) % 2 == 1
    return found


def dump_metadata(metadata: dict[str, Any]) -> str:
    return yaml.safe_dump(metadata, sort_keys=False, allow_unicode=True, width=1000)


def split_metadata(card: str) -> tuple[dict[str, Any], str]:
    """The metadata at the top of a card and the text below, with line ends as on Unix."""
    card = _unix(card)
    match = _METADATA.match(card)
    if match is None:
        return {}, card
    try:
        metadata = yaml.safe_load(match["yaml"]) or {}
    except yaml.YAMLError as error:
        raise ValueError(
            f"The metadata at the top of the card `README.md` are not YAML; correct it by hand: {error}"
        ) from error
    if not isinstance(metadata, dict):
        raise ValueError(
            f"The metadata at the top of the card `README.md` must be `name: value` lines, got {metadata!r}."
        )
    return metadata, card[match.end() :]


def texts_after_sections(body: str) -> Iterator[tuple[str, str]]:
    """The texts outside the generated sections, each with the name of the section before it ("" for none)."""
    body = _unix(body)
    name, start = "", 0
    sections = _sections(body)
    if not sections and body.strip():
        yield "_without_sections", body.strip()
        return
    for section in sections:
        if text := body[start : section.start].strip():
            yield name, text
        name, start = section.name, section.end
    if text := body[start:].strip():
        yield name, text


def _unix(text: str) -> str:
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _sections(body: str, where: str = "The card `README.md`") -> list[_Section]:
    """The generated sections in their order. Raises `ValueError` for a mark that is damaged or has no partner."""
    sections: list[_Section] = []
    opened: re.Match | None = None
    for mark in _ANY_MARK.finditer(body):
        opening, closing = _OPENING.match(body, mark.start()), _CLOSING.match(body, mark.start())
        if opening is None and closing is None:
            raise _damaged(where, body, mark.start(), f"the mark `{mark[0].strip()}` cannot be read")
        if opening is not None:
            if opened is not None:
                raise _damaged(where, body, mark.start(), f"`{opened[0]}` has no `{CLOSING}` before `{opening[0]}`")
            if opening["name"] in {section.name for section in sections}:
                raise _damaged(where, body, mark.start(), f"the section `{opening['name']}` is there twice")
            opened = opening
        elif opened is None:
            raise _damaged(where, body, mark.start(), f"`{closing[0]}` has no `<!-- generated: NAME -->` before it")
        else:
            sections.append(_Section(opened["name"], opened.start(), closing.end()))
            opened = None
    if opened is not None:
        raise _damaged(where, body, opened.start(), f"`{opened[0]}` has no `{CLOSING}` after it")
    return sections


def _damaged(where: str, body: str, place: int, problem: str) -> ValueError:
    line = body.count("\n", 0, place) + 1
    return ValueError(
        f"{where} is damaged: {problem} (line {line}). Each generated section must stand "
        f"between `<!-- generated: NAME -->` and `{CLOSING}`; restore the mark, or remove the whole section. Nothing "
        "was changed or published."
    )


def _merge_metadata(new: dict[str, Any], old: dict[str, Any]) -> dict[str, Any]:
    merged = {**old, **new}
    for name in new.keys() & old.keys() - {"model-index", "configs"}:
        if isinstance(new[name], list) and isinstance(old[name], list):
            merged[name] = new[name] + [entry for entry in old[name] if entry not in new[name]]
    if "model-index" in new and "model-index" in old:
        merged["model-index"] = _merge_results(new["model-index"], old["model-index"])
    return merged


def _merge_results(new: list[dict], old: list[dict]) -> list[dict]:
    """The new results, and the old ones on other data."""
    (model,) = new
    ours = [(result["task"], result["dataset"]) for result in model["results"]]
    kept = [
        result
        for entry in old or []
        for result in entry.get("results") or []
        if (result.get("task"), result.get("dataset")) not in ours
    ]
    return [{**model, "results": model["results"] + kept}]


def folds_in_words(folds: Iterable[int]) -> str:
    """`fold 3`, `folds 1 to 8` for a row of them, else `folds 3, 9 and 10`."""
    folds = sorted(folds)
    return f"{'fold' if len(folds) == 1 else 'folds'} {_numbers_in_words(folds)}"


def _numbers_in_words(folds: list[int]) -> str:
    if len(folds) > 2 and folds == list(range(folds[0], folds[-1] + 1)):
        return f"{folds[0]} to {folds[-1]}"
    return " and ".join(filter(None, (", ".join(map(str, folds[:-1])), str(folds[-1]))))


__all__ = [
    "LICENSE_FIELDS",
    "dump_metadata",
    "folds_in_words",
    "has_sections",
    "paragraphs",
    "split_metadata",
    "texts_after_sections",
    "update_card",
]
