"""Measure on your own copy of PTB-XL what its files are like; the guide *What PTB-XL's files are like* explains it.

`python training/describe_ptbxl.py --data_dir PTBXL [--data_dir_500 PTBXL_AT_500_HZ] [--max_records 1000]`
"""

from __future__ import annotations

import argparse
import ast
import json
import pathlib
from collections.abc import Iterator, Sequence

import numpy as np
import pandas as pd
from tqdm.auto import tqdm

from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.files import write_atomic
from ecg_hf.ptbxl.labels import task_labels
from ecg_hf.ptbxl.table import FILENAME_COLUMNS, TABLE_NAME
from ecg_hf.readers import read_ecg

KINDS = ("diagnostic", "form", "rhythm")
MEASURED = [LEAD_NAMES.index(name) for name in LEAD_NAMES if not name.startswith("a")]
RATE_FACTOR = 5
"""Of 500 and 100 Hz."""
FIT_BAND = (1.0, 30.0)
"""Hz in which the shift is fitted: above the wander of the baseline, below the filter."""
GAINS_AT = (10, 40, 44, 45, 48)
"""Hz at which the gain of the 100 Hz files is told."""
EDGE_SECONDS = 1
"""Left out at both ends where the rates are compared: there are the held ends, and a filter needs room."""
DEVIATIONS = (1, 5, 1000)
"""µV beyond which Einthoven's law counts as broken."""


def describe_table(table: pd.DataFrame) -> dict:
    """Of the rows of `ptbxl_database.csv` that say whether a human validated them, which are all in PhysioNet's copy:
    the share of statements with likelihood 0 by kind, and of rows that a human validated by fold."""
    known = table[table["validated_by_human"].notna()]
    codes_of = {kind: set(task_labels(kind)) for kind in KINDS}
    counts = {kind: [0, 0] for kind in KINDS}
    for cell in known["scp_codes"]:
        for code, likelihood in ast.literal_eval(cell).items():
            for kind, codes in codes_of.items():
                counts[kind][0] += code in codes and likelihood == 0
                counts[kind][1] += code in codes
    validated = known["validated_by_human"].astype(str).str.lower() == "true"
    return {
        "num_rows": len(table),
        "rows_that_say_who_validated": len(known),
        "zero_likelihood": {kind: _share(*of_kind) for kind, of_kind in counts.items()},
        "validated_by_human": validated.groupby(known["strat_fold"]).mean().to_dict(),
    }


def describe_leads(signals: Iterator[np.ndarray]) -> dict:
    """Of records at 100 Hz, (12, samples) in µV: how far III is from II - I, and leads that are constant."""
    deviations, constant = [], 0
    for signal in signals:
        one, two, three = signal[:3].astype(np.int64)
        deviations.append(int(np.abs(three - (two - one)).max()))
        constant += int((np.ptp(signal.astype(np.int64), axis=1) == 0).any())
    deviations = np.array(deviations)
    beyond = {f"more than {limit} µV": int((deviations > limit).sum()) for limit in DEVIATIONS}
    return {"num_records": len(deviations), "einthoven": beyond, "records_with_a_constant_lead": constant}


def held_ends(signal: np.ndarray) -> tuple[int, int]:
    """How many samples at the start and at the end have, in all leads at once, the value of the outermost one."""
    changes = np.flatnonzero((np.diff(signal.astype(np.int64), axis=1) != 0).any(axis=0))
    if not len(changes):
        return signal.shape[1], signal.shape[1]
    return int(changes[0]) + 1, int(signal.shape[1] - 1 - changes[-1])


def describe_500(signals: Iterator[np.ndarray]) -> dict:
    """Of records at 500 Hz: their held ends in samples, and how many samples are whole multiples of 5 µV.

    The latter of leads that are measured: aVR, aVL and aVF are halves of sums.
    """
    ends, fifth, others = [], [], []
    for signal in signals:
        ends.append(held_ends(signal))
        is_step = signal[MEASURED] % 5 == 0
        fifth.append(is_step[:, ::RATE_FACTOR].mean())
        others.append(np.delete(is_step, np.s_[::RATE_FACTOR], axis=1).mean())
    first, last = np.array(ends).T
    return {
        "num_records": len(ends),
        "held_at_start": _spread(first),
        "held_at_end": _spread(last),
        "multiples_of_5_uv": {"every fifth sample": float(np.mean(fifth)), "the others": float(np.mean(others))},
    }


class Rates:
    """The transfer from 500 Hz records to those of 100 Hz: its shift, its gain, and what remains when it is applied.

    It is the cross spectrum over the power spectrum, summed over leads and records, with a Hann window.
    """

    def __init__(self):
        self.cross, self.power, self.pairs = 0, 0, []

    def add(self, fast: np.ndarray, slow: np.ndarray) -> None:
        """A record at both rates, (12, samples) in µV."""
        fast, slow = (_inner(signal, rate) for signal, rate in ((fast, 500), (slow, 100)))
        of_fast = np.fft.rfft(fast * np.hanning(fast.shape[1]), axis=1)[:, : slow.shape[1] // 2 + 1] / RATE_FACTOR
        of_slow = np.fft.rfft(slow * np.hanning(slow.shape[1]), axis=1)
        self.cross = self.cross + (of_slow * of_fast.conj()).sum(axis=0)
        self.power = self.power + (np.abs(of_fast) ** 2).sum(axis=0)
        self.pairs.append((fast, slow))

    def describe(self) -> dict:
        """`shift_ms` (positive: the 100 Hz file is earlier), `gain` by Hz, and the differences in µV."""
        transfer = self.cross / self.power
        frequencies = np.fft.rfftfreq(self.pairs[0][1].shape[1], 1 / 100)
        band = (frequencies >= FIT_BAND[0]) & (frequencies <= FIT_BAND[1])
        turns = np.unwrap(np.angle(transfer[band])) / (2 * np.pi)
        weights = self.power[band] * frequencies[band]
        shift = float((weights * turns).sum() / (weights * frequencies[band]).sum())
        gain = {hertz: float(np.abs(transfer[np.abs(frequencies - hertz).argmin()])) for hertz in GAINS_AT}
        return {
            "num_records": len(self.pairs),
            "shift_ms": 1000 * shift,
            "gain": gain,
            "difference_uv": _spread([_largest(slow - fast[:, ::RATE_FACTOR]) for fast, slow in self.pairs]),
            "difference_from_what_the_transfer_gives_uv": _spread(
                [_largest(slow - _moved(fast, transfer)) for fast, slow in self.pairs]
            ),
        }


def _moved(fast: np.ndarray, transfer: np.ndarray) -> np.ndarray:
    spectrum = np.fft.rfft(fast, axis=1)[:, : len(transfer)] / RATE_FACTOR
    return np.fft.irfft(spectrum * transfer, n=2 * (len(transfer) - 1), axis=1)


def _inner(signal: np.ndarray, rate: int) -> np.ndarray:
    edge = EDGE_SECONDS * rate
    return signal[:, edge:-edge].astype(np.float64)


def _largest(difference: np.ndarray) -> float:
    """Without the ends, where the spectrum of a cut record rings."""
    return float(np.abs(_inner(difference, 100)).max())


def _spread(values: Sequence[float]) -> dict:
    return {"least": float(np.min(values)), "median": float(np.median(values)), "most": float(np.max(values))}


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def _signals(folder: pathlib.Path, names: Sequence[str], title: str) -> Iterator[np.ndarray]:
    for name in tqdm(names, desc=title, unit="record"):
        yield _signal(folder, name)


def _signal(folder: pathlib.Path, name: str) -> np.ndarray:
    record = read_ecg(folder / name)
    if record.lead_names != LEAD_NAMES:
        raise ValueError(
            f"Record {name} has the leads {' '.join(record.lead_names)}, PTB-XL's are {' '.join(LEAD_NAMES)}."
        )
    return record.signal


def _there(folder: pathlib.Path, table: pd.DataFrame, rate: int, most: int | None) -> pd.Series:
    """The names of the records that the folder has at a rate, by `ecg_id`."""
    names = table.set_index("ecg_id")[FILENAME_COLUMNS[rate]]
    return names[[(folder / f"{name}.hea").is_file() for name in names]][:most]


def describe(folder: pathlib.Path, folder_500: pathlib.Path, max_records: int | None = None) -> dict:
    """All measurements; those of a rate whose records are absent are left out."""
    table = pd.read_csv(folder / TABLE_NAME)
    slow = _there(folder, table, 100, max_records)
    fast = _there(folder_500, pd.read_csv(folder_500 / TABLE_NAME), 500, max_records)
    report = {"table": describe_table(table)}
    if len(slow):
        report["records at 100 Hz"] = describe_leads(_signals(folder, list(slow), "100 Hz"))
    if len(fast):
        report["records at 500 Hz"] = describe_500(_signals(folder_500, list(fast), "500 Hz"))
    if len(both := slow.index.intersection(fast.index)):
        rates = Rates()
        for ecg_id in tqdm(both, desc="both rates", unit="record"):
            rates.add(_signal(folder_500, fast[ecg_id]), _signal(folder, slow[ecg_id]))
        report["both rates"] = rates.describe()
    return report


def _lines(report: dict, indent: str = "") -> Iterator[str]:
    for name, value in report.items():
        if isinstance(value, dict):
            yield f"{indent}{name}:"
            yield from _lines(value, indent + "  ")
        else:
            yield f"{indent}{name}: {value:.4g}" if isinstance(value, float) else f"{indent}{name}: {value}"


def main(argv: Sequence[str] | None = None) -> dict:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data_dir", type=pathlib.Path, required=True, help="PTB-XL in PhysioNet's layout")
    parser.add_argument("--data_dir_500", type=pathlib.Path, help="of the 500 Hz records, where it is another folder")
    parser.add_argument("--max_records", type=int, help="of each rate, the first ones")
    parser.add_argument("--json", type=pathlib.Path, help="file for the same as JSON")
    arguments = parser.parse_args(argv)
    report = describe(arguments.data_dir, arguments.data_dir_500 or arguments.data_dir, arguments.max_records)
    print("\n".join(_lines(report)))
    if arguments.json is not None:
        write_atomic(arguments.json, json.dumps(report, indent=2) + "\n")
    return report


if __name__ == "__main__":
    main()
