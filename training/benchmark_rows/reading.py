"""Records a second that `ecg_hf` reads, beside the way that one would write with each format's library.

Both ways read the same files in turn, several times; what counts is the median of the ratios: `ratio` of wall time,
`cpu_ratio` of CPU time, which others on the machine disturb less. The files are simulated, or (`challenge`, `wfdb`)
copies of those in `--folder`. `benchmark.py growth` measures how cost grows with the number of records.
"""

from __future__ import annotations

import argparse
import json
import pathlib
import shutil
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


def copy_files(records: str, folder: pathlib.Path, count: int) -> list[str]:
    """Paths of `count` copies of the WFDB records in a folder, which are taken in turn."""
    headers = sorted(pathlib.Path(records).glob("*.hea"))
    if not headers:
        raise SystemExit(f"--folder: there is no WFDB header (.hea) in {records}.")
    paths = []
    for index in range(count):
        header = headers[index % len(headers)]
        target = folder / f"{index // len(headers)}"  # a header names its signal file
        target.mkdir(exist_ok=True)
        for file in header.parent.glob(f"{header.stem}.*"):
            shutil.copyfile(file, target / file.name)
        paths.append(str(target / header.stem))
    return paths


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


def compare(kind: str, num_records: int, num_rounds: int, records: str | None = None) -> dict:
    """`ratio`: how many times as many records a second we read as the library does; `records` is a folder of them."""
    with tempfile.TemporaryDirectory() as folder:
        place = pathlib.Path(folder)
        paths = write_files(kind, place, num_records) if records is None else copy_files(records, place, num_records)
        spent: dict[str, list[np.ndarray]] = {"ours": [], "library": []}
        for _ in range(num_rounds + 1):
            for name, read in (
                ("ours", lambda: _by_us(kind, paths, folder)),
                ("library", lambda: _by_library(kind, paths)),
            ):
                started = np.array([time.perf_counter(), time.process_time()])
                read()
                spent[name].append(np.array([time.perf_counter(), time.process_time()]) - started)
    ours, library = (np.array(spent[name][1:]) for name in ("ours", "library"))  # the first round warms up
    rates = {name: round(num_records / np.median(each[:, 0])) for name, each in (("ours", ours), ("library", library))}
    ratio, cpu_ratio = np.median(library / ours, axis=0).round(2).tolist()
    return {"format": kind, **rates, "ratio": ratio, "cpu_ratio": cpu_ratio}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser("benchmark.py reading", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    formats = commands.add_parser("formats", help="each format against its library")
    formats.add_argument("--only", nargs="+", choices=FORMATS, default=list(FORMATS))
    formats.add_argument("--num_records", type=int, default=200)
    formats.add_argument("--num_rounds", type=int, default=5)
    formats.add_argument("--folder", help="of WFDB records to copy, instead of simulated ones")
    arguments = parser.parse_args(argv)
    if arguments.folder is not None and not set(arguments.only) <= {"challenge", "wfdb"}:
        parser.error("--folder is for --only challenge or wfdb.")
    for kind in arguments.only:
        print(json.dumps(compare(kind, arguments.num_records, arguments.num_rounds, arguments.folder)), flush=True)
