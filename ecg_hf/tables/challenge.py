"""`load_challenge`: folders of records whose headers state age, sex and SNOMED CT codes, as in PhysioNet/CinC."""

from __future__ import annotations

import logging
import math
import os
import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..arrow import in_batches, texts_of
from ..ptbxl.copies import ecg_id_of_header
from ..readers.channels import Said, canonical_leads
from ..readers.folders import headers_below
from .leaks import listed
from .load import DEFAULT_MAX_SKIPPED, Own, build_splits
from .published import CHALLENGE_2021, note_source
from .snomed import code_of, diagnoses, is_code, label_of
from .split import DEFAULT_FRACTIONS
from .store import Files, PathsBelow, Same

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
        id: its path from the folder, without ending.
        age: in years, None where unknown.
        sex: 0 male, 1 female, as in PTB-XL; None where unknown.
        codes: in the order of the header, each once; None where there is no line `#Dx`.
        is_readable: whether `#Dx` names codes only, or says that they are unknown.
        patient: the folder's name where that is a patient's.
        ptbxl_id: the record's `ecg_id` in PTB-XL, None for other records.
        source: the set of the Challenge that names its records so, None where none does.
    """

    id: str
    age: float | None
    sex: int | None
    codes: tuple[str, ...] | None
    is_readable: bool
    patient: str | None
    ptbxl_id: int | None
    source: str | None


# Of the same few texts each record has a number alone.
_SHORT_TEXT = pa.dictionary(pa.int32(), pa.string())
_HEADERS = pa.schema(
    {
        "id": pa.string(),
        "age": pa.float32(),
        "sex": pa.int64(),
        "codes": pa.list_(_SHORT_TEXT),
        "is_readable": pa.bool_(),
        "patient": pa.string(),
        "ptbxl_id": pa.int32(),
        "source": _SHORT_TEXT,
    }
)


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
    """The records, their name, and whether all are published ones."""
    base = _base(folder)
    headers = _records(base, folder)
    _warn_of_ptbxl(headers)
    _warn_of_patients(headers)
    ids, codes = headers["id"].combine_chunks(), headers["codes"].combine_chunks()
    label_names, matrix = _label_matrix(codes, chosen, join_equivalent, min_records)
    said = Said(lead_names=canonical_leads(lead_names))
    own = Own(
        Files(PathsBelow(base, ids), Same(said, len(ids))),
        ids,
        headers["patient"].combine_chunks(),
        label_names,
        matrix,
        None,
        {"age": headers["age"].combine_chunks(), "sex": headers["sex"].combine_chunks(), "dx": codes},
    )
    return own, _data_name(headers), not headers["source"].null_count


# ---- Headers ----


def has_headers(folder: str | os.PathLike) -> bool:
    """Whether there is a WFDB header in a folder or below."""
    return next(headers_below(folder), None) is not None


def _base(folder: str | os.PathLike) -> str:
    base = os.path.abspath(Path(folder).expanduser())
    if not os.path.isdir(base):
        raise FileNotFoundError(f"{folder} is not a folder: give one with the records of a PhysioNet/CinC Challenge.")
    return base


def _records(base: str, folder: str | os.PathLike) -> pa.Table:
    """The headers with codes, in the order of their ids; `folder` is what messages call `base`."""
    found = texts_of(name.removesuffix(".hea").replace(os.sep, "/") for name in headers_below(base))
    ids = found.take(pc.sort_indices(found))
    left_out: dict[str, list[str]] = defaultdict(list)
    found = _table_of(_headers_with_codes(base, (name.as_py() for name in ids), left_out))
    if not len(found):
        raise ValueError(
            f"Of the {len(ids)} WFDB headers in {folder} none has a line `#Dx:` with SNOMED CT codes, such as "
            "`#Dx: 164889003,59118001`: give a folder in the form of the PhysioNet/CinC Challenges, or a table of "
            "records and labels to `load_ecg_dataset`."
        )
    for reason in (_NO_LINE, _NO_CODE, _OTHER_CODES):
        _warn_left_out(left_out[reason], reason)
    return found


_NO_LINE, _NO_CODE = "have no line `#Dx`", "state no code"
_OTHER_CODES = "have something else than SNOMED CT codes in `#Dx`"


def _headers_with_codes(base: str, ids: Iterable[str], left_out: Mapping[str, list[str]]) -> Iterator[Header]:
    """The headers of these records; the ids of the others are added to `left_out`, by the reason."""
    for name in ids:
        header = _read_header(base, name)
        if header.codes:
            yield header
        elif header.codes is None:
            left_out[_NO_LINE].append(name)
        else:
            left_out[_NO_CODE if header.is_readable else _OTHER_CODES].append(name)


def _table_of(headers: Iterator[Header]) -> pa.Table:
    """As columns, which take a tenth of the memory of tuples."""
    batches = []
    for rows in in_batches(headers):
        columns = map(pa.array, zip(*rows, strict=True), _HEADERS.types)
        batches.append(pa.record_batch(list(columns), schema=_HEADERS))
    return pa.Table.from_batches(batches, _HEADERS).unify_dictionaries()


def _warn_left_out(ids: Sequence[str], what: str) -> None:
    if ids:
        logger.warning(f"{len(ids)} records are left out, since their headers {what}: {listed(ids)}.")


def _read_header(base: str, name: str) -> Header:
    """Of the record with this id."""
    path, text = os.path.join(base, f"{name}.hea"), ""
    if os.path.isfile(path):  # a pipe might never end; what is wrong with a file is said when its record is read
        with open(path, "rb") as file:
            text = file.read(_HEADER_BYTES).decode("latin-1").replace("\r", "\n")
    stated: dict[str, str] = {}
    for field, value in _COMMENT.findall(text):
        stated.setdefault(field.lower(), value.strip())
    tokens = [token for token in re.split(r"[,;\s]+", stated.get("dx", "")) if token.casefold() not in _UNKNOWN]
    place, stem = os.path.split(path.removesuffix(".hea"))
    parent = os.path.basename(place)
    return Header(
        name,
        _age(stated.get("age", "")),
        _SEXES.get(stated.get("sex", "").casefold()),
        tuple(dict.fromkeys(filter(is_code, tokens))) if "dx" in stated else None,
        all(map(is_code, tokens)),
        parent if _PATIENT_FOLDER.fullmatch(parent) else None,
        ecg_id_of_header(stem, text),
        _source(stem, text),
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


def _warn_of_ptbxl(headers: pa.Table) -> None:
    copies = headers.filter(headers["ptbxl_id"].is_valid())
    if len(copies):
        logger.warning(
            f"{len(copies)} of the {len(headers)} records are PTB-XL's, such as {copies['id'][0]} (ecg_id "
            f"{copies['ptbxl_id'][0]}), of folds that the headers do not tell: a model that learns from them cannot "
            "be judged on PTB-XL, and an encoder that was pre-trained on PTB-XL may have seen those that judge it "
            "here."
        )


def _warn_of_patients(headers: pa.Table) -> None:
    if unknown := headers["patient"].null_count:
        logger.warning(
            f"The patients of {unknown} of the {len(headers)} records are not known: each counts as a patient of its "
            "own, so that records of one patient may be in several splits."
        )


def _data_name(headers: pa.Table) -> str:
    """The sets that the records are of, by their names, where it is sure of all of them."""
    if headers["source"].null_count:
        ptbxl = f" with records of {_PTBXL}" if headers["ptbxl_id"].null_count < len(headers) else ""
        return f"own records in the form of the {CHALLENGE}{ptbxl}"
    found = headers["source"].unique().to_pylist()
    return f"{CHALLENGE} 2021 ({', '.join(name for name in _NAMES_OF_SOURCES if name in found)})"


# ---- Labels ----


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
            f"`labels`: {listed([repr(text) for text in unknown])} "
            "must be SNOMED CT codes or abbreviations of the PhysioNet/CinC Challenges, such as 164889003 or AF "
            "(ecg_hf/tables/snomed.csv). A model whose labels have other names is judged by pairs of names, as "
            "training/guides/evaluation.md shows."
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
    codes: pa.ListArray, chosen: list[str] | None, join_equivalent: bool, min_records: int
) -> tuple[list[str], np.ndarray]:
    """Names, and uint8 (records, labels) of 0 and 1."""
    stated = codes.flatten()
    label = {code: label_of(code, join_equivalent) for code in stated.dictionary.to_pylist()}
    index = {name: place for place, name in enumerate(sorted({*label.values(), *(chosen or ())}))}
    column_of = np.array([index[name] for name in label.values()])
    matrix = np.zeros((len(codes), len(index)), np.uint8)
    matrix[pc.list_parent_indices(codes).to_numpy(), column_of[stated.indices.to_numpy()]] = 1
    counts = dict(zip(index, matrix.sum(axis=0, dtype=np.int64).tolist(), strict=True))
    names = chosen or [name for name, count in counts.items() if count >= min_records]
    if not names:
        raise ValueError(f"No label has {min_records} records; the most common one has {max(counts.values())}.")
    if chosen is None and (unknown := [code for code in sorted(label) if code not in diagnoses()]):
        logger.warning(
            f"{len(unknown)} codes are not in the table of the Challenges, and stand for themselves: "
            f"{listed(unknown)}."
        )
    if absent := [name for name in names if not counts[name]]:
        logger.warning(f"No record has the labels {', '.join(absent)}.")
    return names, matrix.take([index[name] for name in names], axis=1)


__all__ = ["ALL_LABELS", "CHALLENGE", "SCORED_LABELS", "has_headers", "load_challenge"]
