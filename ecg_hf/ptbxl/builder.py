"""PTB-XL as a `datasets.DatasetDict`.

The records of one sampling rate are written to Arrow once; each task is a view of them, so it costs its labels only.
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pyarrow as pa
from datasets import Features, List, Value
from datasets.exceptions import DatasetGenerationError
from datasets.fingerprint import Hasher

from ..ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ..ecg_transformer.wfdb_ecg_transformer import RecordError, read_record
from .cache import cause_of, open_builder
from .download import unpack_ptbxl
from .label_order import name_labels
from .labels import encode_labels, task_labels
from .table import FILENAME_COLUMNS, FOLDS, TABLE_NAME, check_sampling_rate, read_blocks, table_features

logger = logging.getLogger(__name__)

# `datasets` replaces Path, open and others in a builder's module by its own, which take "::" in a path for a remote
# archive, unless it finds this mark of having done so.
_patched_for_streaming = True

RECORD_SECONDS = 10
_RECORDS_PER_CHUNK = 64


class PTBXL(datasets.ArrowBasedBuilder):
    """All records of a PTB-XL folder at one sampling rate, in the official splits, without labels.

    The cache is named by the folder's content (the table; name, size and time of each record file), so a folder that
    has changed is built again. `load_ptbxl` explains the arguments and errors, and adds the labels of a task.
    """

    SOURCE = {
        "dataset_name": "ptbxl",
        "homepage": "https://physionet.org/content/ptb-xl/",
        "license": "CC BY 4.0",
        "citation": "Wagner et al. 2020, doi 10.1038/s41597-020-0495-6",
    }
    """Name, homepage, licence and citation of PTB-XL, as the fields of `datasets.DatasetInfo`."""

    @staticmethod
    def column_names() -> list[str]:
        """The columns, in order; a task's labels are not among them."""
        return [*table_features(), "sampling_rate", "lead_names", "signal"]

    def __init__(
        self,
        data_dir: str | os.PathLike,
        sampling_rate: int,
        *,
        cache_dir: str | os.PathLike | None = None,
        skip_missing_records: bool = False,
    ):
        check_sampling_rate(sampling_rate)
        self.folder = Path(data_dir).expanduser().absolute()
        self.sampling_rate = sampling_rate
        content = hashlib.sha256()
        folds, missing, first_missing = [], [], None
        for table in self._read_blocks():
            filenames = table["filename"].to_pylist()
            stamps = [_record_stamp(f"{self.folder}/{filename}") for filename in filenames]
            content.update("".join(f"{stamp}\n" for stamp in stamps).encode())
            folds.append(table["strat_fold"].to_numpy())
            missing.append(np.array([stamp is None for stamp in stamps]))
            if first_missing is None and None in stamps:
                first_missing = filenames[stamps.index(None)]
        self._folds = np.concatenate(folds)
        self._missing = np.concatenate(missing)
        if first_missing is not None:
            self._check_missing(first_missing, skip_missing_records)
        with open(self.folder / TABLE_NAME, "rb") as file:
            content.update(hashlib.file_digest(file, "sha256").digest())
        super().__init__(
            cache_dir=None if cache_dir is None else str(Path(cache_dir).expanduser().absolute()),
            dataset_name=self.SOURCE["dataset_name"],
            config_id=f"{sampling_rate}hz",
            # To be raised whenever the same folder gives other rows than before.
            version=datasets.Version("1.0.0"),
            hash=content.hexdigest()[:32],
        )

    def _read_blocks(self) -> Iterator[pa.Table]:
        return read_blocks(self.folder, self.sampling_rate)

    def _check_missing(self, first: str, skip_missing_records: bool) -> None:
        if self._missing.all():
            (other_rate,) = FILENAME_COLUMNS.keys() - {self.sampling_rate}
            has_other_rate = (self.folder / f"records{other_rate}").is_dir()
            hint = f"it has records at {other_rate} Hz" if has_other_rate else "give the folder of PTB-XL"
            raise FileNotFoundError(
                f"{self.folder} has no records at {self.sampling_rate} Hz (the first would be {first}); {hint}."
            )
        count = f"{self._missing.sum()} of the {len(self._missing)} records in {TABLE_NAME}"
        if not skip_missing_records:
            raise FileNotFoundError(
                f"{count} are missing in {self.folder}, the first is {first} (.hea or .dat). Complete the folder, or "
                "leave them out with skip_missing_records=True (--skip_missing_records of training/train.py)."
            )
        logger.warning("%s are missing in %s and are skipped.", count, self.folder)

    def _info(self) -> datasets.DatasetInfo:
        num_values = len(LEAD_NAMES) * RECORD_SECONDS * self.sampling_rate
        features = Features(
            table_features(),
            sampling_rate=Value("int64"),
            lead_names=List(Value("string")),
            signal=List(Value("int16"), length=num_values),
        )
        return datasets.DatasetInfo(features=features, **self.SOURCE)

    def _split_generators(self, dl_manager: datasets.DownloadManager) -> list[datasets.SplitGenerator]:
        generators = []
        for split, folds in FOLDS.items():
            rows = np.flatnonzero(np.isin(self._folds, folds) & ~self._missing)
            generator = datasets.SplitGenerator(name=split, gen_kwargs={"rows": rows})
            generator.split_info.num_examples = len(rows)  # the length of the progress bar
            generators.append(generator)
        return generators

    def _generate_tables(self, rows: np.ndarray) -> Iterator[tuple[int, pa.Table]]:
        first = 0
        for table in self._read_blocks():
            in_block = rows[(rows >= first) & (rows < first + len(table))]
            for start in range(0, len(in_block), _RECORDS_PER_CHUNK):
                chunk = in_block[start : start + _RECORDS_PER_CHUNK]
                yield int(chunk[0]), self._read_chunk(table.take(chunk - first))
            first += len(table)

    def _read_chunk(self, table: pa.Table) -> pa.Table:
        signals = np.stack([self._read_signal(filename) for filename in table["filename"].to_pylist()])
        columns = dict(zip(table.column_names, table.columns, strict=True))
        columns["sampling_rate"] = [self.sampling_rate] * len(table)
        columns["lead_names"] = [LEAD_NAMES] * len(table)
        columns["signal"] = fixed_size_lists(signals)
        return pa.table(columns, schema=self.info.features.arrow_schema)

    def _read_signal(self, filename: str) -> np.ndarray:
        path = self.folder / filename
        record = read_record(path, sampling_rate=self.sampling_rate)
        num_samples = RECORD_SECONDS * self.sampling_rate
        if set(record.lead_names) != set(LEAD_NAMES) or record.signal.shape[1] != num_samples:
            raise RecordError(
                f"Record {path}: a record of PTB-XL has {num_samples} samples of the leads {', '.join(LEAD_NAMES)}; "
                f"this one has {record.signal.shape[1]} of {', '.join(record.lead_names)}."
            )
        order = [record.lead_names.index(name) for name in LEAD_NAMES]
        return record.signal[order].reshape(-1)

    def download_and_prepare(self, *args, **kwargs) -> None:
        """Write the Arrow files unless the cache has them. Errors are those that `load_ptbxl` lists."""
        try:
            super().download_and_prepare(*args, **kwargs)
        except DatasetGenerationError as error:
            raise cause_of(error, self.cache_dir) from None


def load_ptbxl(
    data_dir: str | os.PathLike,
    task: str,
    sampling_rate: int,
    cache_dir: str | os.PathLike | None = None,
    skip_missing_records: bool = False,
) -> datasets.DatasetDict:
    """PTB-XL for one task: ``train`` (folds 1 to 8), ``validation`` (fold 9) and ``test`` (fold 10).

    Records without any statement of the task's kind are excluded, as in the PTB-XL benchmark. The columns are

    - of PTB-XL's table, as it has them: ``ecg_id``, ``patient_id``, ``age`` (years), ``sex`` (0 male, 1 female),
      ``height`` (cm), ``weight`` (kg), ``nurse``, ``site``, ``device``, ``recording_date``, ``report``,
      ``strat_fold`` and ``filename``, the path of the rate that is read;
    - ``sampling_rate`` (Hz) and ``lead_names`` of the record;
    - ``scp_codes``: a list of ``{"code", "likelihood"}``, likelihood in percent;
    - ``signal``: int16 in µV, flat and lead-major; ``signal.reshape(12, -1)`` has the leads ``lead_names``;
    - ``labels``: float32 multi-hot, in the order of `task_labels(task)`.

    Args:
        data_dir: PTB-XL's folder, with ``ptbxl_database.csv`` and ``records100`` or ``records500``; or PhysioNet's
            zip of it, which is unpacked into `cache_dir`.
        task: one of `TASKS`.
        sampling_rate: 100 or 500, the rate in Hz of the files to read.
        cache_dir: where the Arrow files go; by default the cache of `datasets`.
        skip_missing_records: skip records that are in the table but not in the folder.

    Raises:
        ValueError: a task or rate that does not exist, or a table that cannot be read.
        FileNotFoundError: the table, the rate or a record is missing.
        RecordError: a record cannot be read.
    """
    task_labels(task)  # an unknown task fails before the folder is read
    data_dir = ptbxl_folder(data_dir, sampling_rate, cache_dir)
    builder = open_ptbxl(data_dir, sampling_rate, cache_dir, skip_missing_records)
    records = {split: _read_split(builder, split) for split in FOLDS}
    views = datasets.DatasetDict({split: _label(dataset, task) for split, dataset in records.items()})
    num_records, num_labelled = (sum(map(len, splits.values())) for splits in (records, views))
    if num_labelled < num_records:
        logger.warning(
            "%d of %d records have no statement of the task %s and are excluded, as in the PTB-XL benchmark.",
            num_records - num_labelled,
            num_records,
            task,
        )
    return views


def open_ptbxl(
    data_dir: str | os.PathLike,
    sampling_rate: int,
    cache_dir: str | os.PathLike | None = None,
    skip_missing_records: bool = False,
) -> PTBXL:
    """The builder of a folder with its Arrow files written, or found in a cache that may only be read."""

    def make(cache: str | None) -> PTBXL:
        return PTBXL(data_dir, sampling_rate, cache_dir=cache, skip_missing_records=skip_missing_records)

    builder = open_builder(make, cache_dir)
    builder.download_and_prepare()
    return builder


def ptbxl_folder(
    data_dir: str | os.PathLike, sampling_rate: int, cache_dir: str | os.PathLike | None = None
) -> str | os.PathLike:
    """`data_dir` itself, or the folder into which it was unpacked if it is a zip file."""
    if not Path(data_dir).expanduser().is_file():
        return data_dir
    return unpack_ptbxl(data_dir, sampling_rate, cache_dir or datasets.config.HF_DATASETS_CACHE)


def _read_split(builder: PTBXL, split: str) -> datasets.Dataset:
    if builder.info.splits[split].num_examples:
        return builder.as_dataset(split)
    # `datasets` refuses to read a split without records.
    features = builder.info.features
    return datasets.Dataset.from_dict({name: [] for name in features}, features=features, split=split)


def _label(dataset: datasets.Dataset, task: str) -> datasets.Dataset:
    """The records with a statement of the task's kind, and their labels. No signal is copied."""
    labels = encode_labels(statement_codes(dataset), task)
    feature = List(Value("float32"), length=labels.shape[1])
    # Without it `datasets` pickles the column, twice its size, to make one.
    fingerprint = Hasher.hash([dataset._fingerprint, task])
    dataset = dataset.add_column("labels", fixed_size_lists(labels), feature=feature, new_fingerprint=fingerprint)
    return name_labels(dataset.select(np.flatnonzero(labels.any(axis=1))), task_labels(task))


def statement_codes(dataset: datasets.Dataset) -> Iterator[list[str]]:
    """The SCP codes of each record of a data set whose rows are neither selected nor shuffled."""
    for chunk in dataset.data.column("scp_codes").chunks:
        for items in chunk.to_pylist():
            yield [item["code"] for item in items]


def fixed_size_lists(rows: np.ndarray) -> pa.FixedSizeListArray:
    """An Arrow column of the rows of a matrix, without copying it."""
    return pa.FixedSizeListArray.from_arrays(pa.array(rows.reshape(-1)), rows.shape[1])


def _record_stamp(path: str) -> str | None:
    """Size and time of a record's files, by which a changed one is known; None if one is missing."""
    try:
        files = [os.stat(f"{path}{suffix}") for suffix in (".hea", ".dat")]
    except FileNotFoundError:
        return None
    return " ".join(f"{file.st_size} {file.st_mtime_ns}" for file in files)


__all__ = [
    "PTBXL",
    "RECORD_SECONDS",
    "fixed_size_lists",
    "load_ptbxl",
    "open_ptbxl",
    "ptbxl_folder",
    "statement_codes",
]
