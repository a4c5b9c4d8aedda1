"""What is looked at in own records before anybody learns from them: errors where nothing sensible can follow, and
warnings with counts and examples.

Exchanged chest leads of a single record are not looked for: infarcts, blocks and rotation give the same picture. What
is seen is a whole table whose chest leads are named in another order.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import datasets
import numpy as np
import pyarrow as pa

from ..ecg_transformer.common_ecg_transformer import (
    LEAD_NAMES,
    MULTI_LABEL,
    REGRESSION,
    SINGLE_LABEL,
    UNKNOWN_LABEL,
)
from ..ecg_transformer.lead_checks_ecg_transformer import (
    LARGEST_OFFSET,
    LEAST_EXTENT,
    LimbFault,
    describe_limb_faults,
    describe_offsets,
)
from ..readers.channels import microvolts_of
from .facts import PRECORDIAL, Facts, join_facts
from .leaks import Identities, leaks_in_words, listed
from .shortcuts import Folders, join_folders, shortcuts_in_words
from .table import SPLITS

logger = logging.getLogger(__name__)

# mV from peak to peak, the median over leads. Of 20,000 records of PTB-XL all lie from 0.38 to 9.5, half of them from
# 1.0 to 1.5: a factor of 1000 throws each of them out, above this or below `LEAST_EXTENT`.
LARGEST_EXTENT = 20.0

# Beats a minute, the median over records of one sampling rate. Of 20,000 records of PTB-XL the median is 71, and 98 %
# lie from 45 to 133. The medians of 20 records, drawn 10,000 times, lie from 57 to 89, so that none is falsely warned
# of; under half the rate 99.98 %, under double the rate 99.75 % are found. Where all records have one diagnosis,
# 0.02 % of the draws of sinus bradycardia are falsely warned of, none of sinus tachycardia, atrial fibrillation,
# pacemakers and premature beats, but most of atrial flutter (133 beats), as infants' would be.
LOWEST_BEATS, HIGHEST_BEATS = 45.0, 120.0
_USUAL_BEATS = (55.0, 95.0)
_FEWEST_RECORDS = 20
_USUAL_RATES = (100, 125, 200, 250, 400, 500, 1000, 2000)

# In PTB-XL the medians of (R - S) / (R + S) rise from V1 to V6: -0.56, -0.34, -0.08, 0.32, 0.56, 0.63. In 2,000 draws
# of 20 records none fell by more than 0.13 from any lead to a later one. In draws of normal ECGs an exchange of V1 and
# V3 or of V1 and V6 is always found, of V2 and V3 or of V3 and V4 in 9 of 10, of V1 and V2 in 6 of 10, of V4 and V5 or
# of V5 and V6 hardly ever. A table of nothing but right bundle branch blocks or right hypertrophy is falsely warned of
# half the time, of pacemakers in 0.6 %, of anteroseptal infarcts in 0.1 %, of other infarcts never.
_LARGEST_FALL = 0.25

_UNIT_NAMES = {1e-3: "nV", 1.0: "uV", 1e3: "mV", 1e6: "V"}


class Guarded(NamedTuple):
    """Of each record:

    Attributes:
        ids, patients, split: as the data set has them (ids of several tables as text), and in which split it is.
        labels: (records, labels), as the column `labels`.
        units: the unit that is stated beside the file, or null.
        folders: those of its path, and of a file of many records that file.
        facts: what was measured.
    """

    ids: pa.Array
    patients: pa.Array
    split: np.ndarray
    labels: np.ndarray
    units: pa.Array
    folders: Folders
    facts: Facts


def join_guarded(parts: Sequence[Guarded]) -> Guarded:
    """The records of several tables."""
    if len(parts) == 1:
        return parts[0]
    return Guarded(
        ids=pa.array([str(name) for part in parts for name in part.ids], pa.string()),
        patients=pa.concat_arrays([part.patients for part in parts]),
        split=np.concatenate([part.split for part in parts]),
        labels=np.concatenate([part.labels for part in parts]),
        units=pa.concat_arrays([part.units for part in parts]),
        folders=join_folders([part.folders for part in parts]),
        facts=join_facts(part.facts for part in parts),
    )


def guard(records: Guarded, label_names: Sequence[str], problem_type: str = MULTI_LABEL) -> None:
    """Warns of what looks wrong in the records, each with the number of records and ten of them at most.

    Limb leads that contradict each other, chest leads in another order, flat leads, offsets, voltages and heart rates
    that no heart has, patients in several splits, recordings that are there twice, labels that are the same in all
    records of a split, and (not of a regression) labels that follow the folder, the length or the sampling rate.

    Raises:
        ValueError: the typical amplitude is not that of an ECG, so that the unit must be wrong.
    """
    _check_unit(records)
    messages = [*_lead_messages(records), *_beat_messages(records), *leaks_in_words(_identities(records), label_names)]
    messages += _one_sided_labels(records, label_names, problem_type)
    if problem_type != REGRESSION:
        facts = records.facts
        messages += shortcuts_in_words(records.labels, label_names, records.folders, facts.seconds, facts.rate)
    for message in messages:
        logger.warning(message)


def _identities(records: Guarded) -> dict[str, Identities]:
    found = {}
    for name in SPLITS:
        if len(rows := np.flatnonzero(records.split == name)):
            ids, patients = (column.take(pa.array(rows)) for column in (records.ids, records.patients))
            found[name] = Identities(ids, patients, records.facts.digest[rows], records.labels[rows])
    return found


def _named(records: Guarded, rows: np.ndarray) -> str:
    return listed(records.ids.take(pa.array(rows)))


# ---- Voltages ----


def _check_unit(records: Guarded) -> None:
    extent = records.facts.extent
    typical = float(np.median(extent))
    wrong = np.flatnonzero((extent < LEAST_EXTENT) | (extent > LARGEST_EXTENT))
    if LEAST_EXTENT <= typical <= LARGEST_EXTENT:
        if len(wrong):
            logger.warning(
                f"{len(wrong)} of {len(extent)} records are no typical ECGs: their leads extend over less than "
                f"{LEAST_EXTENT} mV or more than {LARGEST_EXTENT:g} mV from peak to peak, those of the others over "
                f"{typical:.2g} mV. Is their unit the same? {_named(records, wrong)}."
            )
        return
    raise ValueError(
        f"The leads of the records extend typically over {typical:.2g} mV from peak to peak, those of an ECG over 0.4 "
        f"to 10 mV (such as {_named(records, wrong)}): {_unit_to_give(records, wrong, typical)}."
    )


def _unit_to_give(records: Guarded, wrong: Sequence[int], typical: float) -> str:
    """What would bring the records to the voltages of an ECG."""
    factor = 1000.0 if typical < LEAST_EXTENT else 0.001
    stated = set(records.units.take(pa.array(wrong)).to_pylist())
    if len(stated) == 1 and (unit := stated.pop()) is not None:
        given = microvolts_of(unit, "`units`")
        if (wanted := _UNIT_NAMES.get(round(given * factor, 9))) is not None:
            return f'give `units` "{wanted}" instead of "{_UNIT_NAMES.get(given, unit)}", or correct their values'
    larger, example = (
        ("1000 times", '"mV" instead of "uV"') if factor > 1 else ("a thousandth of", '"uV" instead of "mV"')
    )
    return f"correct the unit or the gain that their files state; {larger} what it is now would fit, such as {example}"


# ---- Leads ----


def _lead_messages(records: Guarded) -> Iterator[str]:
    facts = records.facts
    if len(rows := facts.faulty):
        found = zip(rows.tolist(), facts.miss.tolist(), facts.mends.tolist(), strict=True)
        faults = [LimbFault(records.ids[row].as_py(), miss, mends) for row, miss, mends in found]
        yield f"{describe_limb_faults(faults, len(facts.digest))} Records: {_named(records, rows)}."
    if len(rows := np.flatnonzero(facts.offset > LARGEST_OFFSET)):
        offsets = describe_offsets(facts.offset.max(), len(rows), len(facts.offset), records.ids[int(rows[0])])
        yield f"{offsets} Records: {_named(records, rows)}."
    flat = [f"{name} ({count})" for name, count in zip(LEAD_NAMES, facts.flat.sum(axis=0), strict=True) if count]
    if flat:
        rows = np.flatnonzero(facts.flat.any(axis=1))
        yield (
            f"Leads are flat (constant) in {len(rows)} of {len(facts.flat)} records: {', '.join(flat)}. If they were "
            f"not recorded, leave them out (`lead_names`). Records: {_named(records, rows)}."
        )
    yield from _chest_lead_messages(facts)


def _chest_lead_messages(facts: Facts) -> Iterator[str]:
    known = np.isfinite(facts.progression)
    columns = np.flatnonzero(known.sum(axis=0) >= _FEWEST_RECORDS)
    if len(columns) < 2:
        return
    medians = np.nanmedian(facts.progression[:, columns], axis=0)
    falls = np.maximum.accumulate(medians) - medians
    worst = int(falls.argmax())
    if falls[worst] > _LARGEST_FALL:
        names = [PRECORDIAL[column] for column in columns]
        before = names[int(medians[:worst].argmax())]
        values = ", ".join(f"{name} {median:.2f}" for name, median in zip(names, medians, strict=True))
        yield (
            f"The chest leads seem to be named in another order: R waves grow from V1 to V6, here they are smaller in "
            f"{names[worst]} than in {before}. Medians of (R - S) / (R + S) of {known[:, columns].any(axis=1).sum()} "
            f"records: {values}. Look at `lead_names`."
        )


# ---- Beats ----


def _beat_messages(records: Guarded) -> Iterator[str]:
    facts = records.facts
    for rate in np.unique(facts.rate):
        found = (facts.rate[facts.closer] == rate) & np.isfinite(facts.beats)
        rows = facts.closer[found]
        if len(rows) < _FEWEST_RECORDS:
            continue
        beats = float(np.median(facts.beats[found]))
        if not LOWEST_BEATS <= beats <= HIGHEST_BEATS:
            yield (
                f"The records of {rate:g} Hz have a median of {beats:.0f} heart beats a minute ({len(rows)} were "
                f"looked at, such as {_named(records, rows)}), expected {LOWEST_BEATS:.0f} to {HIGHEST_BEATS:.0f}: is "
                f"this their sampling rate? Usual ones under which it would be normal: {_fitting_rates(rate, beats)}."
            )


def _fitting_rates(rate: float, beats: float) -> str:
    """The usual sampling rates that make `beats` under `rate` a usual heart rate, the best first."""
    under = {other: beats * other / rate for other in _USUAL_RATES}
    lowest, highest = _USUAL_BEATS
    best = sorted(under, key=lambda other: abs(np.log(under[other] ** 2 / (lowest * highest))))
    fitting = [other for other in best if lowest <= under[other] <= highest]
    return ", ".join(f"{other} Hz ({under[other]:.0f} beats)" for other in fitting) or "none"


# ---- Labels ----


def _one_sided_labels(records: Guarded, names: Sequence[str], problem_type: str) -> Iterator[str]:
    """Of each split the labels that are the same in all of its records."""
    for split in SPLITS:
        labels = records.labels[records.split == split]
        if not len(labels):
            continue
        told = [
            f"{name} ({what})"
            for name, what in zip(names, map(_SAMENESS[problem_type], labels.T), strict=True)
            if what
        ]
        if told:
            yield (
                f"{len(told)} of {len(names)} {_TARGETS[problem_type]} are the same in all {len(labels)} records of "
                f"{split}, and cannot be {'learned' if split == 'train' else 'judged'} there: {listed(told)}."
            )


def _label_sameness(values: np.ndarray) -> str:
    known = values[values != UNKNOWN_LABEL]
    if not len(known):
        return "unknown"
    return "" if 0 < (known == 1).mean() < 1 else "no positives" if not known.any() else "no negatives"


def _number_sameness(values: np.ndarray) -> str:
    known = values[np.isfinite(values)]
    if not len(known):
        return "unknown"
    return f"{known[0]:g}" if known.min() == known.max() else ""


_SAMENESS = {MULTI_LABEL: _label_sameness, SINGLE_LABEL: _label_sameness, REGRESSION: _number_sameness}
_TARGETS = {MULTI_LABEL: "labels", SINGLE_LABEL: "classes", REGRESSION: "targets"}


# ---- Once in a process ----

# By the fingerprint of a split, which any change gives another, the splits that it was compared with.
_guarded: dict[str, frozenset[str]] = {}


def remember(splits: Mapping[str, datasets.Dataset]) -> None:
    """Note that these splits were guarded together."""
    together = frozenset(split._fingerprint for split in splits.values())
    _guarded.update(dict.fromkeys(together, together))


def were_guarded(splits: Sequence[datasets.Dataset]) -> bool:
    """Whether these splits, all different, were guarded together in this process as they are."""
    prints = [split._fingerprint for split in splits]
    return len(set(prints)) == len(prints) and all(set(prints) <= _guarded.get(name, frozenset()) for name in prints)


__all__ = ["Guarded", "guard", "join_guarded", "remember", "were_guarded"]
