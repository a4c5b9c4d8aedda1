"""`load_challenge`: folders of records whose headers state age, sex and SNOMED CT codes, as in PhysioNet/CinC."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..ptbxl.copies import ecg_id_of_header
from ..readers.channels import Said, canonical_leads
from .load import DEFAULT_MAX_SKIPPED, Own, build_splits
from .published import CHALLENGE_2021, note_source
from .snomed import code_of, diagnoses, is_code, label_of
from .split import DEFAULT_FRACTIONS
from .store import NAMED_IN_A_MESSAGE, Files

logger = logging.getLogger(__name__)

ALL_LABELS = "dx"
SCORED_LABELS = "scored"

CHALLENGE = "PhysioNet/CinC Challenge"
"""How the name of records of the Challenges begins."""

_PTBXL = "PTB-XL"
# How the sets of the Challenge of 2021 name their records; the last Chapman-Shaoxing record is JS10646.
_NAMES_OF_SOURCES = {
    "CPSC 2018": re.compile(r"A\d{4}"),
    "CPSC-Extra": re.compile(r"Q\d{4}"),
    "INCART": re.compile(r"I\d{4}"),
    "PTB": re.compile(r"S\d{4}"),
    _PTBXL: re.compile(r"HR\d{5}"),
    "Georgia": re.compile(r"E\d{5}"),
    "Chapman-Shaoxing": re.compile(r"JS(?:0\d{4}|10[0-5]\d\d|106[0-3]\d|1064[0-6])"),
    "Ningbo": re.compile(r"JS\d{5}"),
}
_MATLAB_SIGNAL = re.compile(r"^\S+\.mat[ \t]+16\S*\+24\b", re.MULTILINE)

_HEADER_BYTES = 2**16
_COMMENT = re.compile(r"^[ \t]*#[ \t]*(age|sex|dx)[ \t]*:(.*)$", re.IGNORECASE | re.MULTILINE)
_UNKNOWN = ("", "unknown", "nan", "none", "n/a")
_SEXES = {"male": 0, "m": 0, "female": 1, "f": 1}
_OLDEST = 120
# As PTB Diagnostic names the folder of each patient.
_PATIENT_FOLDER = re.compile(r"patient\d{3}")


class Header(NamedTuple):
    """What is read of a header.

    Attributes:
        path: of the record, without ending.
        id: its path from the folder.
        age: in years, None where unknown.
        sex: 0 male, 1 female, as in PTB-XL; None where unknown.
        codes: in the order of the header, each once; None where there is no line `#Dx`.
        is_readable: whether `#Dx` names codes only, or says that they are unknown.
        patient: the folder's name where that is a patient's.
        ptbxl_id: the record's `ecg_id` in PTB-XL, None for other records.
        source: the set of the Challenge that names its records so, None where none does.
    """

    path: str
    id: str
    age: float | None
    sex: int | None
    codes: tuple[str, ...] | None
    is_readable: bool
    patient: str | None
    ptbxl_id: int | None
    source: str | None


def load_challenge(
    folder: str | os.PathLike,
    labels: str | Sequence[str] = ALL_LABELS,
    *,
    join_equivalent: bool = True,
    min_records: int = 1,
    lead_names: Sequence[str] | None = None,
    split_fractions: Sequence[float] = DEFAULT_FRACTIONS,
    seed: int = 0,
    max_skipped: float = DEFAULT_MAX_SKIPPED,
    num_proc: int = 1,
    cache_dir: str | os.PathLike | None = None,
) -> datasets.DatasetDict:
    """A folder in the form of the PhysioNet/CinC Challenges of 2020 and 2021, as the splits of [`load_ecg_dataset`].

    Records are the WFDB headers in the folder and below with a line ``#Dx`` of SNOMED CT codes: CPSC, Georgia,
    Chapman-Shaoxing, Ningbo, PTB, INCART, PTB-XL as these Challenges have them. Further columns are ``age`` (years,
    null where unknown or not within 0 to 120), ``sex`` (0 male, 1 female, as in PTB-XL, or null) and ``dx`` (all
    codes).

    A label is 1 where the header names its code, else 0. Records whose header names no code at all are left out, since
    nothing is known of them; those that name only codes that are not learned stay, since somebody has looked at them
    and found other things: all of their labels are 0.

    The sets do not tell patients, so each record counts as a patient of its own, but for folders ``patientNNN``, as in
    PTB Diagnostic. Records HR##### are PTB-XL's, of folds that the headers do not tell.

    Args:
        folder: with headers and signal files, at any depth.
        labels: ``"dx"``, all codes that occur; ``"scored"``, those that the Challenge of 2021 scored; or codes or
            abbreviations, in this order. A label has the Challenge's abbreviation as its name, or its code where the
            table of this project does not have it.
        join_equivalent: take codes for one label that the Challenge of 2021 scores as one: CLBBB and LBBB, CRBBB and
            RBBB, PAC and SVPB, PVC and VPB, under the first of the names.
        min_records: of ``"dx"``, leave out labels that fewer records have.
        lead_names: the leads to read; by default all of the twelve.
        split_fractions, seed, max_skipped, num_proc, cache_dir: as for [`load_ecg_dataset`].

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: it has no header with codes, or an argument cannot be used; or as [`load_ecg_dataset`].
    """
    chosen = _chosen_labels(labels, join_equivalent)
    if min_records != 1 and (chosen is not None or min_records < 1):
        raise ValueError(f'`min_records` must be at least 1, and is for labels "{ALL_LABELS}"; got {min_records}.')
    own, data_name, is_published = _own(folder, chosen, join_equivalent, min_records, lead_names)
    splits = build_splits(
        {"train": own},
        data_name=data_name,
        split_fractions=split_fractions,
        seed=seed,
        max_skipped=max_skipped,
        num_proc=num_proc,
        cache_dir=cache_dir,
    )
    if is_published:
        note_source(splits, CHALLENGE_2021)
    return splits


def _own(
    folder: str | os.PathLike,
    chosen: list[str] | None,
    join_equivalent: bool,
    min_records: int,
    lead_names: Sequence[str] | None,
) -> tuple[Own, str, bool]:
    """The records, their name, and whether all are published ones. The headers are forgotten: of very many records
    they would take more memory than what is read."""
    headers = _records(folder)
    _warn_of_ptbxl(headers)
    _warn_of_patients(headers)
    label_names, matrix = _label_matrix(headers, chosen, join_equivalent, min_records)
    said = Said(lead_names=canonical_leads(lead_names))
    own = Own(
        Files([header.path for header in headers], [said] * len(headers)),
        [header.id for header in headers],
        [header.patient for header in headers],
        label_names,
        matrix,
        None,
        _columns(headers),
    )
    return own, _data_name(headers), all(header.source for header in headers)


# ---- Headers ----


def has_headers(folder: str | os.PathLike) -> bool:
    """Whether there is a WFDB header in a folder or below."""
    return next(_header_files(os.fspath(folder)), None) is not None


def _records(folder: str | os.PathLike) -> list[Header]:
    """The headers with codes, in the order of their paths."""
    base = os.path.abspath(Path(folder).expanduser())
    if not os.path.isdir(base):
        raise FileNotFoundError(f"{folder} is not a folder: give one with the records of a PhysioNet/CinC Challenge.")
    headers = sorted((_read_header(base, path) for path in _header_files(base)), key=lambda header: header.id)
    found = [header for header in headers if header.codes]
    without_line = [header for header in headers if header.codes is None]
    if not found:
        raise ValueError(
            f"Of the {len(headers)} WFDB headers in {folder} none has a line `#Dx:` with SNOMED CT codes, such as "
            "`#Dx: 164889003,59118001`: give a folder in the form of the PhysioNet/CinC Challenges, or a table of "
            "records and labels to `load_ecg_dataset`."
        )
    _warn_left_out(without_line, "have no line `#Dx`")
    _warn_left_out([header for header in headers if header.codes == () and header.is_readable], "state no code")
    _warn_left_out(
        [header for header in headers if header.codes == () and not header.is_readable],
        "have something else than SNOMED CT codes in `#Dx`",
    )
    return found


def _warn_left_out(headers: list[Header], what: str) -> None:
    if headers:
        named = ", ".join(header.id for header in headers[:NAMED_IN_A_MESSAGE])
        more = f" and {len(headers) - NAMED_IN_A_MESSAGE} more" if len(headers) > NAMED_IN_A_MESSAGE else ""
        logger.warning(f"{len(headers)} records are left out, since their headers {what}: {named}{more}.")


def _header_files(folder: str) -> Iterator[str]:
    """Paths of the headers, also through links to folders, each folder once."""
    entered = set()
    for place, folders, names in os.walk(folder, followlinks=True):
        folders.sort()
        real = os.path.realpath(place)
        if real in entered:  # a link into what was read, or back above itself
            folders.clear()
            continue
        entered.add(real)
        yield from (os.path.join(place, name) for name in names if name.endswith(".hea"))


def _read_header(base: str, path: str) -> Header:
    text = ""
    if os.path.isfile(path):  # a pipe might never end; what is wrong with a file is said when its record is read
        with open(path, "rb") as file:
            text = file.read(_HEADER_BYTES).decode("latin-1").replace("\r", "\n")
    stated: dict[str, str] = {}
    for field, value in _COMMENT.findall(text):
        stated.setdefault(field.lower(), value.strip())
    tokens = [token for token in re.split(r"[,;\s]+", stated.get("dx", "")) if token.casefold() not in _UNKNOWN]
    place, name = os.path.split(path.removesuffix(".hea"))
    parent = os.path.basename(place)
    return Header(
        path.removesuffix(".hea"),
        os.path.relpath(path, base).removesuffix(".hea").replace(os.sep, "/"),
        _age(stated.get("age", "")),
        _SEXES.get(stated.get("sex", "").casefold()),
        tuple(dict.fromkeys(filter(is_code, tokens))) if "dx" in stated else None,
        all(map(is_code, tokens)),
        parent if _PATIENT_FOLDER.fullmatch(parent) else None,
        ecg_id_of_header(name, text),
        _source(name, text),
    )


def _age(text: str) -> float | None:
    try:
        age = float(text)
    except ValueError:
        return None
    return age if math.isfinite(age) and 0 <= age <= _OLDEST else None


def _source(name: str, text: str) -> str | None:
    if not _MATLAB_SIGNAL.search(text):
        return None
    return next((source for source, pattern in _NAMES_OF_SOURCES.items() if pattern.fullmatch(name)), None)


def _warn_of_ptbxl(headers: list[Header]) -> None:
    if copies := [header for header in headers if header.ptbxl_id is not None]:
        logger.warning(
            f"{len(copies)} of the {len(headers)} records are PTB-XL's, such as {copies[0].id} (ecg_id "
            f"{copies[0].ptbxl_id}), of folds that the headers do not tell: a model that learns from them cannot be "
            "judged on PTB-XL, and an encoder that was pre-trained on PTB-XL may have seen those that judge it here."
        )


def _warn_of_patients(headers: list[Header]) -> None:
    if unknown := sum(header.patient is None for header in headers):
        logger.warning(
            f"The patients of {unknown} of the {len(headers)} records are not known: each counts as a patient of its "
            "own, so that records of one patient may be in several splits."
        )


def _data_name(headers: list[Header]) -> str:
    """The sets that the records are of, by their names, where it is sure of all of them."""
    found = {header.source for header in headers}
    if None in found:
        ptbxl = f" with records of {_PTBXL}" if any(header.ptbxl_id is not None for header in headers) else ""
        return f"own records in the form of the {CHALLENGE}{ptbxl}"
    return f"{CHALLENGE} 2021 ({', '.join(name for name in _NAMES_OF_SOURCES if name in found)})"


# ---- Labels and columns ----


def _chosen_labels(labels: str | Sequence[str], join_equivalent: bool) -> list[str] | None:
    """Names of the labels asked for; None for all that occur."""
    if isinstance(labels, str) and labels not in (ALL_LABELS, SCORED_LABELS):
        raise ValueError(
            f'`labels` must be "{ALL_LABELS}", "{SCORED_LABELS}" or a list of SNOMED CT codes or abbreviations, got '
            f"{labels!r}."
        )
    if labels == ALL_LABELS:
        return None
    if labels == SCORED_LABELS:
        scored = (diagnosis.code for diagnosis in diagnoses().values() if diagnosis.scored_2021)
        return sorted({label_of(code, join_equivalent) for code in scored})
    codes = {text: code_of(str(text)) for text in labels}
    if unknown := [text for text, code in codes.items() if code is None]:
        raise ValueError(
            f"`labels`: {', '.join(map(repr, unknown[:NAMED_IN_A_MESSAGE]))} "
            "must be SNOMED CT codes or abbreviations of the PhysioNet/CinC Challenges, such as 164889003 or AF "
            "(ecg_hf/tables/snomed.csv)."
        )
    names = [label_of(code, join_equivalent) for code in codes.values()]
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise ValueError(
            f"`labels` names {', '.join(twice)} twice: name each once, of codes that mean the same one, or part them "
            "by `join_equivalent=False`."
        )
    if not names:
        raise ValueError("`labels` is empty: name codes or abbreviations.")
    return names


def _label_matrix(
    headers: list[Header], chosen: list[str] | None, join_equivalent: bool, min_records: int
) -> tuple[list[str], np.ndarray]:
    """Names, and float32 (records, labels) of 0 and 1."""
    label = {code: label_of(code, join_equivalent) for code in {code for header in headers for code in header.codes}}
    found = [{label[code] for code in header.codes} for header in headers]
    counts = Counter(name for names in found for name in names)
    names = chosen or sorted(name for name, count in counts.items() if count >= min_records)
    if not names:
        raise ValueError(f"No label has {min_records} records; the most common one has {max(counts.values())}.")
    if chosen is None and (unknown := [code for code in sorted(label) if code not in diagnoses()]):
        logger.warning(
            f"{len(unknown)} codes are not in the table of the Challenges, and stand for themselves: "
            f"{', '.join(unknown[:NAMED_IN_A_MESSAGE])}."
        )
    if absent := [name for name in names if not counts[name]]:
        logger.warning(f"No record has the labels {', '.join(absent)}.")
    index = {name: place for place, name in enumerate(names)}
    matrix = np.zeros((len(headers), len(names)), np.float32)
    for row, present in enumerate(found):
        matrix[row, [index[name] for name in present if name in index]] = 1
    return names, matrix


def _columns(headers: list[Header]) -> dict[str, pa.Array]:
    return {
        "age": pa.array([header.age for header in headers], pa.float32()),
        "sex": pa.array([header.sex for header in headers], pa.int64()),
        "dx": pa.array([list(header.codes) for header in headers], pa.list_(pa.string())),
    }


__all__ = ["ALL_LABELS", "CHALLENGE", "SCORED_LABELS", "has_headers", "load_challenge"]
