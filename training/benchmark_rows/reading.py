"""Records a second that `ecg_hf` reads, beside the way that one would write with each format's library.

Both ways read the same simulated files in turn, several times; what counts is the median of the ratios. `growth` reads
small and large numbers of records into the Arrow files of own tables: time and memory of a record must not grow.
"""

from __future__ import annotations

import argparse
import json
import os
import pathlib
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence

import numpy as np

from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.synthetic import simulate_ecg

BENCHMARK = pathlib.Path(__file__).resolve().parents[1] / "benchmark.py"
RATE, SECONDS = 500, 10
CODES = dict(zip(LEAD_NAMES, (1, 2, 61, 62, 63, 64, 3, 4, 5, 6, 7, 8), strict=True))
FORMATS = ("challenge", "wfdb", "edf", "dicom")


def write_files(kind: str, folder: pathlib.Path, count: int) -> list[str]:
    """Paths of `count` simulated records of one format: 12 leads, 10 s, 500 Hz."""
    rng = np.random.default_rng(0)
    signals = [simulate_ecg(["NORM"], sampling_rate=RATE, rng=rng) for _ in range(min(count, 20))]
    return [_WRITERS[kind](folder, f"r{index:06}", signals[index % len(signals)]) for index in range(count)]


def _header(name: str, file: str, storage: str, signal: np.ndarray) -> str:
    lines = [f"{name} 12 {RATE} {signal.shape[1]}"]
    for lead, row in zip(LEAD_NAMES, signal, strict=True):
        checksum = int(row.astype(np.int64).sum() % 2**16)
        lines.append(f"{file} {storage} 1000(0)/mV 16 0 {row[0]} {checksum} 0 {lead}")
    return "\n".join([*lines, "# Age: 60", "# Sex: Female", "# Dx: 426783006"]) + "\n"


def _write_challenge(folder: pathlib.Path, name: str, signal: np.ndarray) -> str:
    # MATLAB 4: type 30 (int16), rows, columns, no imaginary part, length of the name.
    head = np.array([30, *signal.shape, 0, 4], "<i4").tobytes() + b"val\0"
    (folder / f"{name}.mat").write_bytes(head + signal.astype("<i2").tobytes(order="F"))
    (folder / f"{name}.hea").write_text(_header(name, f"{name}.mat", "16+24", signal))
    return str(folder / name)


def _write_wfdb(folder: pathlib.Path, name: str, signal: np.ndarray) -> str:
    (folder / f"{name}.dat").write_bytes(signal.astype("<i2").tobytes(order="F"))
    (folder / f"{name}.hea").write_text(_header(name, f"{name}.dat", "16", signal))
    return str(folder / name)


def _write_edf(folder: pathlib.Path, name: str, signal: np.ndarray) -> str:
    import edfio

    channels = [
        edfio.EdfSignal(row.astype(float), RATE, label=lead, physical_dimension="uV", physical_range=(-32768, 32767))
        for lead, row in zip(LEAD_NAMES, signal, strict=True)
    ]
    edfio.Edf(channels).write(folder / f"{name}.edf")
    return str(folder / f"{name}.edf")


def _write_dicom(folder: pathlib.Path, name: str, signal: np.ndarray) -> str:
    from pydicom.dataset import Dataset, FileMetaDataset
    from pydicom.sequence import Sequence as Items
    from pydicom.uid import ExplicitVRLittleEndian, TwelveLeadECGWaveformStorage, generate_uid

    def code(value: str, scheme: str, meaning: str) -> Dataset:
        item = Dataset()
        item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning = value, scheme, meaning
        return item

    channels = []
    for lead in LEAD_NAMES:
        channel = Dataset()
        channel.ChannelSourceSequence = Items([code(f"5.6.3-9-{CODES[lead]}", "SCPECG", f"Lead {lead}")])
        channel.ChannelSensitivity, channel.ChannelSensitivityCorrectionFactor, channel.ChannelBaseline = "1", "1", "0"
        channel.ChannelSensitivityUnitsSequence = Items([code("uV", "UCUM", "microvolt")])
        channel.WaveformBitsStored, channel.ChannelSampleSkew = 16, "0"
        channels.append(channel)
    group = Dataset()
    group.WaveformOriginality, group.MultiplexGroupLabel = "ORIGINAL", "RHYTHM"
    group.NumberOfWaveformChannels, group.NumberOfWaveformSamples = len(LEAD_NAMES), signal.shape[1]
    group.SamplingFrequency, group.ChannelDefinitionSequence = RATE, Items(channels)
    group.WaveformBitsAllocated, group.WaveformSampleInterpretation = 16, "SS"
    group.add_new("WaveformData", "OW", signal.astype("<i2").tobytes(order="F"))
    dataset = Dataset()
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    dataset.file_meta.MediaStorageSOPClassUID = dataset.SOPClassUID = TwelveLeadECGWaveformStorage
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID = generate_uid()
    dataset.Modality, dataset.WaveformSequence = "ECG", Items([group])
    dataset.save_as(folder / f"{name}.dcm", enforce_file_format=True)
    return str(folder / f"{name}.dcm")


_WRITERS: dict[str, Callable[[pathlib.Path, str, np.ndarray], str]] = {
    "challenge": _write_challenge,
    "wfdb": _write_wfdb,
    "edf": _write_edf,
    "dicom": _write_dicom,
}


def _by_library(kind: str, paths: Sequence[str]) -> None:
    """Each record by the format's own library: its voltages in an array, its leads and their unit."""
    if kind == "edf":
        import edfio

        for path in paths:
            np.stack([signal.data for signal in edfio.read_edf(path).signals])
    elif kind == "dicom":
        import pydicom

        # Of which lead a column is, and in what unit, stands in the channel definitions.
        for path in paths:
            dataset = pydicom.dcmread(path)
            dataset.waveform_array(0)
            for channel in dataset.WaveformSequence[0].ChannelDefinitionSequence:
                channel.ChannelSourceSequence[0].CodeMeaning  # noqa: B018
                channel.ChannelSensitivityUnitsSequence[0].CodeValue  # noqa: B018
    else:
        import wfdb

        for path in paths:
            wfdb.rdrecord(path)


def _by_us(kind: str, paths: Sequence[str], cache: str) -> None:
    """WFDB into the Arrow files of own tables, writing included; the others by `read_ecg` alone."""
    if kind in ("edf", "dicom"):
        from ecg_hf import read_ecg

        for path in paths:
            read_ecg(path)
        return
    _store(paths, cache)


def _store(paths: Sequence[str], cache: str) -> None:
    from ecg_hf.readers.channels import Said
    from ecg_hf.tables.store import Files, store_records

    with tempfile.TemporaryDirectory(dir=cache) as folder:
        store_records(Files(list(paths), [Said()] * len(paths)), folder)


def compare(kind: str, num_records: int, num_rounds: int) -> dict:
    """`ratio`: how many times as many records a second we read as the library does."""
    with tempfile.TemporaryDirectory() as folder:
        paths = write_files(kind, pathlib.Path(folder), num_records)
        seconds = {"ours": [], "library": []}
        for _ in range(num_rounds + 1):
            for name, read in (
                ("ours", lambda: _by_us(kind, paths, folder)),
                ("library", lambda: _by_library(kind, paths)),
            ):
                started = time.perf_counter()
                read()
                seconds[name].append(time.perf_counter() - started)
    pairs = list(zip(seconds["library"], seconds["ours"], strict=True))[1:]  # the first round warms up
    rates = {name: round(num_records / statistics.median(values[1:])) for name, values in seconds.items()}
    return {"format": kind, **rates, "ratio": round(statistics.median(library / ours for library, ours in pairs), 2)}


def growth(num_records: Sequence[int], num_proc: int) -> list[dict]:
    """For each number of records, in a process of its own: microseconds a record and the peak of anonymous memory."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        originals = pathlib.Path(folder, "originals")
        originals.mkdir()
        write_files("challenge", originals, 20)
        for count in num_records:
            records = pathlib.Path(folder, str(count))
            for index in range(count):
                target = records / f"g{index // 20}"  # a header names its signal file
                target.mkdir(parents=True, exist_ok=True)
                for ending in (".hea", ".mat"):
                    name = f"r{index % 20:06}{ending}"
                    os.link(originals / name, target / name)
            command = [
                sys.executable,
                os.path.abspath(sys.argv[0]),
                "reading",
                "store",
                str(records),
                "--num_proc",
                str(num_proc),
            ]
            answer = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, cwd=folder)
            rows.append({"num_records": count, **json.loads(answer.stdout)})
            print(json.dumps(rows[-1]), flush=True)
            shutil.rmtree(records)
    return rows


def store(folder: str, num_proc: int) -> dict:
    """Read all records of a folder into Arrow files, as pre-training and tables do."""
    from ecg_hf.pretraining.records import folder_files, load_records

    with tempfile.TemporaryDirectory(dir=pathlib.Path(folder).parent) as cache:
        started = time.perf_counter()
        files = folder_files(folder, allow_test_folds=True)
        dataset = load_records(files, 1.0, cache, num_proc=num_proc)
        seconds = time.perf_counter() - started
        size = sum(path.stat().st_size for path in pathlib.Path(cache).rglob("*.arrow"))
    values = len(dataset) * len(LEAD_NAMES) * RATE * SECONDS * 2
    peak = max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {
        "microseconds_a_record": round(1e6 * seconds / len(dataset)),
        "peak_mebibytes": round(peak / 1024),
        "bytes_on_disk_over_int16": round(size / values, 3),
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("benchmark.py reading", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    formats = commands.add_parser("formats", help="each format against its library")
    formats.add_argument("--only", nargs="+", choices=FORMATS, default=list(FORMATS))
    formats.add_argument("--num_records", type=int, default=200)
    formats.add_argument("--num_rounds", type=int, default=5)
    grow = commands.add_parser("growth", help="time and memory of a record as their number grows")
    grow.add_argument("--num_records", type=int, nargs="+", default=[1000, 10000, 45000])
    grow.add_argument("--num_proc", type=int, default=1)
    one = commands.add_parser("store", help="one measurement of `growth`, in its own process")
    one.add_argument("folder")
    one.add_argument("--num_proc", type=int, default=1)
    arguments = parser.parse_args(argv)
    if arguments.command == "formats":
        for kind in arguments.only:
            print(json.dumps(compare(kind, arguments.num_records, arguments.num_rounds)), flush=True)
    elif arguments.command == "growth":
        growth(arguments.num_records, arguments.num_proc)
    else:
        print(json.dumps(store(arguments.folder, arguments.num_proc)))
