"""Pipelines of raw ECG records: `ecg-classification` gives their findings, `feature-extraction` a vector for each."""

import numbers
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import ChunkPipeline

from .common_ecg_transformer import LEAD_NAMES, MULTI_LABEL, REGRESSION, check_same_input
from .configuration_ecg_transformer import ECGTransformerConfig
from .inputs_ecg_transformer import as_array, by_leads, is_count, listed_leads
from .targets_ecg_transformer import scores_of
from .wfdb_ecg_transformer import Record, read_record
from .wfdb_objects_ecg_transformer import wfdb_recording

MIN_SHARE_OF_WINDOW = 0.1
"""Of a window that a record must fill at least to be classified."""


@dataclass(frozen=True)
class _Listed:
    """One of several records, with its place among them, by which messages call it where it has no name."""

    place: int
    record: Any


class ECGRecordPipeline(ChunkPipeline):
    """
    Base of the pipelines: records are read, checked and cut into windows, which go through the model.

    A record is

    - the path of a WFDB record, with or without `.hea`, `.dat` or `.mat`. Its header tells rate, leads, gains and
      units; what it leaves out is not guessed. The leads that the model can use are read and checked, and only these.
      Where the package `ecg_hf` is installed, also the path of a file of any other format that its `read_ecg` reads,
    - a dict with `signal` (or `array`), `sampling_rate`, `lead_names` and, if wanted, `units`,
    - a row of `load_ptbxl`: such a dict whose `signal` is flat, one lead after another; its integers are µV,
    - a `Record` of `read_ecg`, or a `wfdb.Record` in physical or digital units, of which the channels that are no
      leads are left out, or
    - an array (leads, samples), or a flat one with one lead after another, together with the arguments
      `sampling_rate`, `lead_names` and, of integers, `units`.

    Several records are a list of these, an array (records, leads, samples), a `datasets.Dataset` or a column of one
    (or a generator, which is read as the answers are). `batch_size` counts windows.

    Arguments, of the pipeline or of a call:
        sampling_rate, lead_names, units:
            Of arrays, and of dicts that lack them; see the feature extractor. Of files of other formats than WFDB that
            do not state them.
        missing_leads (`str`, defaults to `"zero"`): `"zero"` or `"error"`; see the feature extractor.
        batch_size (`int`, defaults to 32): Windows in one forward pass; they may come from several records.

    Raises:
        ValueError: at construction, without a feature extractor or with one made for another model; in a call, for an
            input that is refused (see the feature extractor) and for a file that is damaged or unclear.
        FileNotFoundError: in a call, if a file of a record is missing.
    """

    _load_feature_extractor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_processor = False

    read_file: Callable[[str | os.PathLike, Sequence[str], dict[str, Any]], Any] | None = None
    """(path, leads that are of use, what the caller says of it) -> a record in µV as of `read_record`, which reads
    WFDB where this is None; the package `ecg_hf` puts its reader of all formats here."""

    def __init__(self, *args, batch_size: int | None = None, **kwargs):
        super().__init__(*args, batch_size=batch_size or 32, **kwargs)
        if self.feature_extractor is None:
            raise ValueError(
                f"`{self.model.name_or_path}` came without a feature extractor (`preprocessor_config.json`): pass the "
                "one that the model was trained with as `feature_extractor`."
            )
        check_same_input(self.feature_extractor, self.model.config)
        # A model that comes from a trainer may be in training mode, where its outputs are random.
        self.model.eval()

    def __call__(self, records, **kwargs):
        """The answer for a record, or a list of one for each of several records; see the class."""
        if isinstance(records, (np.ndarray, torch.Tensor)) and records.ndim == 3:
            records = list(records)
        if isinstance(records, list) and not records:
            return []
        _refuse_rows(records, kwargs.get("lead_names", self._preprocess_params.get("lead_names")))
        form = getattr(records, "format", None)
        if isinstance(form, Mapping) and form["type"] in ("arrow", "pandas", "polars"):
            records = records.with_format(None)  # whose rows are tables
        is_column = isinstance(records, Sequence) and not isinstance(records, (str, bytes, list))
        if is_column or hasattr(records, "column_names"):
            # Of a data set, which the library would take for one input; read one record after another.
            return list(super().__call__((_Listed(*each) for each in enumerate(records)), **kwargs))
        if isinstance(records, list):
            records = [_Listed(*each) for each in enumerate(records)]
        return super().__call__(records, **kwargs)

    def _sanitize_parameters(
        self, sampling_rate=None, lead_names=None, units=None, missing_leads=None
    ) -> tuple[dict, dict, dict]:
        preprocess = {
            "sampling_rate": sampling_rate,
            "lead_names": listed_leads(lead_names),
            "units": units,
            "missing_leads": missing_leads,
        }
        return _without_none(preprocess), {}, {}

    def preprocess(self, record, missing_leads: str = "zero", **recording):
        """Yield the windows of one record."""
        name = _name_of(record)
        features = self.windows_of(record, self.recording_of(record, **recording), missing_leads=missing_leads)
        num_windows = len(features["input_values"])
        for window in range(num_windows):
            rows = {name: tensor[window : window + 1] for name, tensor in features.items()}
            yield {"is_last": window == num_windows - 1, "window": rows, "record": name or "a record"}

    def recording_of(self, record, **recording) -> dict[str, Any]:
        """What the feature extractor reads of a record of any kind: its signal, rate, leads and, if known, units.

        `recording` has what the caller says of it: `sampling_rate`, `lead_names`, `units`.
        """
        if isinstance(record, _Listed):
            record = record.record
        if isinstance(record, (str, os.PathLike)):
            return self._read_recording(record, recording)
        if isinstance(record, Record):
            return _of_microvolts(record)
        return wfdb_recording(record) if hasattr(record, "sig_name") else _as_recording(record, recording)

    def windows_of(self, record, recording: dict[str, Any], **options):
        """The feature extractor's answer for a `recording_of` a record; `ValueError` for one that it cannot use."""
        name = _name_of(record)
        try:
            recording = {**recording, "signal": by_leads(as_array(recording["signal"]), recording["lead_names"])}
            self._check_content(recording)
            return self.feature_extractor(**recording, **options)
        except ValueError as error:
            raise ValueError(str(error) if name is None else f"{name}: {error}") from error

    def _check_content(self, recording: dict[str, Any]) -> None:
        """`ValueError` for a record that is flat, or of which the model would see little but padding."""
        rate, (num_rows, samples) = recording.get("sampling_rate"), recording["signal"].shape
        is_transposed = num_rows != len(recording["lead_names"] or ())
        if is_transposed or not samples or not isinstance(rate, numbers.Real) or not rate > 0:
            return  # refused by the feature extractor
        if np.ptp(np.asarray(recording["signal"], dtype=np.float64), axis=-1).max() == 0:
            raise ValueError("the record is flat in all leads: there is nothing to classify.")
        config = self.model.config
        window, token = (count / config.sampling_rate for count in (config.num_samples, config.patch_size))
        if samples / rate < max(token, MIN_SHARE_OF_WINDOW * window):
            raise ValueError(
                f"the record has {samples / rate:g} s, of which the model reads windows of {window:g} s: shorter than "
                f"a tenth of one, or than a token ({token:g} s), it would be classified by padding. Give a longer one."
            )

    @property
    def wanted_leads(self) -> list[str]:
        """The leads that the model has or can compute its own from: those of a file that are read and checked."""
        lead_names = list(self.feature_extractor.lead_names)
        if not self.feature_extractor.lead_tokens and not set(LEAD_NAMES[:6]).isdisjoint(lead_names):
            lead_names += ["I", "II", "III"]
        return lead_names

    def _read_recording(self, path: str | os.PathLike, said: dict[str, Any]) -> dict[str, Any]:
        """The feature extractor's arguments for a file."""
        if self.read_file is None:
            record = read_record(path, lead_names=self.wanted_leads)
        else:
            record = self.read_file(path, self.wanted_leads, said)
        return _of_microvolts(record)

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        # The library would pad tensors to a common shape; dicts it leaves alone, one by itself or a batch as a list.
        windows = model_inputs["window"]
        if isinstance(windows, dict):
            windows = [windows]
        outputs = [None] * len(windows)
        for rows in _alike(windows):
            batch = {name: torch.cat([windows[row][name] for row in rows]) for name in windows[rows[0]]}
            for row, output in zip(rows, self._output(batch), strict=True):
                outputs[row] = output
        passed_on = {name: model_inputs[name] for name in ("is_last", "record")}
        return {**passed_on, "output": torch.stack(outputs)}

    def _output(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        """(windows, values): what the answers are made of."""
        raise NotImplementedError


class ECGClassificationPipeline(ECGRecordPipeline):
    """
    Classification of ECG records, or regression, as the model was trained for.

    ```python
    from transformers import pipeline

    classifier = pipeline("ecg-classification", model="path/to/checkpoint")
    classifier("records500/00000/00001_hr")
    # [{"label": "NORM", "name": "normal ECG", "score": 0.93, "threshold": 0.41, "positive": True}, ...]
    classifier(signal, sampling_rate=500, lead_names=["I", "II", "III", "aVR", "aVL", "aVF", "V1", ...])
    ```

    Records, arguments and errors are those of [`ECGRecordPipeline`]. For each record the answer is a list with one
    dict for each label, in descending order of `score`: `label`, `name` (the full name, where the model knows it),
    `score` (probability), `threshold`, and `positive` (score >= threshold). All windows of a record are scored and put
    together as the model's `window_aggregation` says.

    A model of one of several classes (`problem_type` `single_label_classification`) gives scores that sum to 1, no
    `threshold`, and `positive` for the class of the highest score alone. A regression gives, in the order of the
    model's labels, dicts with `label`, `name` and `value`, in the unit of the target.

    Arguments, of the pipeline or of a call:
        top_k (`int`, *optional*): Only the labels with the highest scores; not for a regression.

    Raises:
        RuntimeError: at construction, if the model has no trained head.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        if not hasattr(self.model, "aggregate_windows") or self.model.head_is_random:
            raise RuntimeError(
                f"`{self.model.name_or_path}` ({type(self.model).__name__}) has no trained classification head. "
                "Post-train it first."
            )

    def _sanitize_parameters(self, top_k: int | None = None, **kwargs) -> tuple[dict, dict, dict]:
        if top_k is not None and not is_count(top_k):
            raise ValueError(f"`top_k` must be at least 1 and whole, got {top_k!r}.")
        if top_k is not None and self.model.config.problem_type == REGRESSION:
            raise ValueError(f"`top_k` is {top_k}, but the values of a regression have no order: leave it out.")
        preprocess, forward, _ = super()._sanitize_parameters(**kwargs)
        return preprocess, forward, _without_none({"top_k": top_k})

    def _output(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model(**windows).logits

    def postprocess(self, windows: list[dict[str, torch.Tensor]], top_k: int | None = None) -> list[dict[str, Any]]:
        config = self.model.config
        logits = torch.cat([window["output"] for window in windows]).float()
        self._check_logits(logits, windows[0]["record"])
        scores = scores_of(config.problem_type, self.model.aggregate_windows(logits[None])[0])
        names = config.label_names or {}
        findings = [{"label": label, "name": names.get(label, label)} for label in config.labels]
        for finding, answer in zip(findings, _answers(config, scores), strict=True):
            finding.update(answer)
        if config.problem_type == REGRESSION:
            return findings
        return sorted(findings, key=lambda finding: finding["score"], reverse=True)[:top_k]

    def _check_logits(self, logits: torch.Tensor, record: str):
        """NaN is below every threshold: the label would be reported as absent."""
        finite = logits.isfinite().all(dim=0)
        if not finite.all():
            labels = [
                label for label, known in zip(self.model.config.labels, finite.tolist(), strict=True) if not known
            ]
            raise ValueError(
                f"The model `{self.model.name_or_path}` gives NaN or infinite scores for {record}: of {len(labels)} "
                f"labels, {', '.join(labels[:5])}. Its weights are damaged, or too large for {self.model.dtype}."
            )


def _answers(config: ECGTransformerConfig, scores: torch.Tensor) -> list[dict[str, Any]]:
    """What is said of each label; `scores` (labels,)."""
    values = scores.tolist()
    if config.problem_type == REGRESSION:
        return [{"value": value} for value in values]
    if config.problem_type == MULTI_LABEL:
        thresholds = config.thresholds or [0.5] * len(values)
        return [
            {"score": score, "threshold": threshold, "positive": score >= threshold}
            for score, threshold in zip(values, thresholds, strict=True)
        ]
    highest = int(scores.argmax())
    return [{"score": score, "positive": index == highest} for index, score in enumerate(values)]


class ECGFeatureExtractionPipeline(ECGRecordPipeline):
    """
    One vector for each ECG record: the mean over its windows of the model's pooled feature (`pooler_output`).

    ```python
    from transformers import pipeline

    embed = pipeline("feature-extraction", model="path/to/encoder")
    embed(["records500/00000/00001_hr", "records500/00000/00002_hr"])  # two lists of `hidden_size` numbers
    ```

    Records, arguments and errors are those of [`ECGRecordPipeline`]; a trained classifier gives the features that its
    head reads.

    Arguments, of the pipeline or of a call:
        return_tensors (`bool`, *optional*): Tensors (hidden_size,) in float32 in place of lists.
    """

    def _sanitize_parameters(self, return_tensors: bool | None = None, **kwargs) -> tuple[dict, dict, dict]:
        preprocess, forward, _ = super()._sanitize_parameters(**kwargs)
        return preprocess, forward, _without_none({"return_tensors": return_tensors})

    def _output(self, windows: dict[str, torch.Tensor]) -> torch.Tensor:
        return self.model.base_model(**windows).pooler_output

    def postprocess(self, windows: list[dict[str, Any]], return_tensors: bool = False) -> list[float] | torch.Tensor:
        vector = torch.cat([window["output"] for window in windows]).float().mean(dim=0)
        if not vector.isfinite().all():
            raise ValueError(
                f"The model `{self.model.name_or_path}` gives a NaN or infinite feature for {windows[0]['record']}. "
                f"Its weights are damaged, or too large for {self.model.dtype}."
            )
        return vector if return_tensors else vector.tolist()


def _of_microvolts(record: Record) -> dict[str, Any]:
    facts = {name: getattr(record, name) for name in ("signal", "sampling_rate", "lead_names")}
    return {**facts, "units": "uV"}


def _as_recording(record, recording: dict[str, Any]) -> dict[str, Any]:
    """The feature extractor's arguments for a dict or an array; what a dict says goes before the call's arguments."""
    signal = record
    if isinstance(record, Mapping):
        keys = [key for key in ("signal", "array") if key in record]
        if len(keys) != 1:
            raise ValueError(
                "A record that is a dict needs one key `signal` (or `array`), beside `sampling_rate` and "
                f"`lead_names`; got the keys {', '.join(map(str, record))}."
            )
        signal = record[keys[0]]
        fields = ("sampling_rate", "lead_names", "units")
        recording = {**recording, **_without_none({name: record.get(name) for name in fields})}
    if hasattr(recording.get("sampling_rate"), "item"):  # of an array or a tensor
        recording = {**recording, "sampling_rate": recording["sampling_rate"].item()}
    signal, lead_names = as_array(signal), listed_leads(recording.get("lead_names"))
    shape = signal.shape
    if not shape:
        raise ValueError(
            f"A record is a path, an array (leads, samples), or a dict with one; got {type(record).__name__}. "
            "The content of a file must stand in one: write it there, under its own name, and give the path."
        )
    is_row = len(shape) == 1 and isinstance(lead_names, list)
    several_lists = isinstance(lead_names, list) and any(isinstance(names, list) for names in lead_names)
    if not (len(shape) == 2 or is_row) or several_lists:
        raise ValueError(
            f"One record has shape (leads, samples) and one list of `lead_names`, got {shape} and {lead_names}. Pass "
            "several records as a list."
        )
    if is_row and isinstance(record, Mapping) and signal.dtype.kind in "iu":
        recording = {"units": "uV", **recording}
    return {"signal": signal, **recording, "lead_names": lead_names}


def _refuse_rows(records, lead_names) -> None:
    """`ValueError` for a list of as many rows of numbers as there are leads: one record, or several flat ones?"""
    count = len(lead_names) if isinstance(lead_names, Sequence) and not isinstance(lead_names, str) else 0
    if count < 2 or not isinstance(records, (list, tuple)) or len(records) != count:
        return
    if all(isinstance(row, (list, tuple, np.ndarray, torch.Tensor)) and np.ndim(row) == 1 for row in records):
        raise ValueError(
            f"Got a list of {count} rows of numbers for {count} leads: one record, or {count} flat ones? Give one "
            "record as an array (leads, samples), `np.array(rows)`, and flat ones as dicts with the key `signal`."
        )


def _name_of(record) -> str | None:
    """What messages call a record; None for an array that is alone."""
    if isinstance(record, _Listed):
        return _name_of(record.record) or f"Record {record.place}"
    if isinstance(record, (str, os.PathLike)):
        return str(record)
    if isinstance(record, Mapping):
        return None if record.get("ecg_id") is None else f"Record {record['ecg_id']}"
    return f"Record {record.record_name}" if hasattr(record, "sig_name") else None


def _alike(windows: list[dict[str, torch.Tensor]]) -> list[list[int]]:
    """The places of windows that can be rows of one batch: with the same inputs, of the same shapes.

    A window without `attention_mask` or with other leads is one that the model must see in that form, as it does when
    its record is alone.
    """
    groups = {}
    for place, window in enumerate(windows):
        form = tuple((name, tensor.shape) for name, tensor in sorted(window.items()))
        groups.setdefault(form, []).append(place)
    return list(groups.values())


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


__all__ = ["ECGClassificationPipeline", "ECGFeatureExtractionPipeline", "ECGRecordPipeline"]
