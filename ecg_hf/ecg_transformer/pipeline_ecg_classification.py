"""Pipeline `ecg-classification`: a raw ECG record in, the findings of an ECG Transformer out."""

import numbers
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from transformers.pipelines.base import ChunkPipeline

from .common_ecg_transformer import LEAD_NAMES
from .configuration_ecg_transformer import ECGTransformerConfig
from .wfdb_ecg_transformer import read_record
from .wfdb_objects_ecg_transformer import wfdb_recording

MIN_SHARE_OF_WINDOW = 0.1
"""Of a window that a record must fill at least to be classified."""


class ECGClassificationPipeline(ChunkPipeline):
    """
    Multi-label classification of ECG records.

    ```python
    from transformers import pipeline

    classifier = pipeline("ecg-classification", model="path/to/checkpoint")
    classifier("records500/00000/00001_hr")
    # [{"label": "NORM", "name": "normal ECG", "score": 0.93, "threshold": 0.41, "positive": True}, ...]
    classifier(signal, sampling_rate=500, lead_names=["I", "II", "III", "aVR", "aVL", "aVF", "V1", ...])
    ```

    A record is

    - the path of a WFDB record, with or without `.hea`, `.dat` or `.mat`. Its header tells rate, leads, gains and
      units; what it leaves out is not guessed. The leads that the model can use are read and checked, and only these,
    - a dict with `signal` (or `array`), `sampling_rate`, `lead_names` and, if wanted, `units`,
    - a row of `load_ptbxl`: such a dict whose `signal` is flat, one lead after another; its integers are µV,
    - a `wfdb.Record` in physical or digital units, of which the channels that are no leads are left out, or
    - an array (leads, samples), or a flat one with one lead after another, together with the arguments
      `sampling_rate`, `lead_names` and, of integers, `units`.

    Several records are a list of these, an array (records, leads, samples), a `datasets.Dataset` or a column of one
    (or a generator, which is read as the answers are). For each record the answer is a list with one dict for each
    label, in descending order of `score`: `label`, `name` (the full name, where the model knows it), `score`
    (probability), `threshold`, and `positive` (score >= threshold). All windows of a record are scored and put
    together as the model's `window_aggregation` says; `batch_size` counts windows.

    Arguments, of the pipeline or of a call:
        sampling_rate, lead_names, units: Of arrays, and of dicts that lack them; see the feature extractor.
        missing_leads (`str`, defaults to `"zero"`): `"zero"` or `"error"`; see the feature extractor.
        top_k (`int`, *optional*): Only the labels with the highest scores.
        batch_size (`int`, defaults to 32): Windows in one forward pass; they may come from several records.

    Raises:
        ValueError: at construction, without a feature extractor or with one made for another model; in a call, for an
            input that is refused (see the feature extractor) and for a WFDB record that is damaged or unclear.
        FileNotFoundError: in a call, if a file of a WFDB record is missing.
        RuntimeError: at construction, if the model has no trained head.
    """

    _load_feature_extractor = True
    _load_tokenizer = False
    _load_image_processor = False
    _load_video_processor = False
    _load_processor = False

    def __init__(self, *args, batch_size: int | None = None, **kwargs):
        super().__init__(*args, batch_size=batch_size or 32, **kwargs)
        if not hasattr(self.model, "aggregate_windows") or self.model.head_is_random:
            raise RuntimeError(
                f"`{self.model.name_or_path}` ({type(self.model).__name__}) has no trained classification head. "
                "Post-train it first."
            )
        if self.feature_extractor is None:
            raise ValueError(
                f"`{self.model.name_or_path}` came without a feature extractor (`preprocessor_config.json`): pass the "
                "one that the model was trained with as `feature_extractor`."
            )
        _check_same_input(self.feature_extractor, self.model.config)
        # A model that comes from a trainer may be in training mode, where scores are random.
        self.model.eval()

    def __call__(self, records, **kwargs):
        """The findings of a record, or a list of them for each of several records; see the class."""
        if isinstance(records, (np.ndarray, torch.Tensor)) and records.ndim == 3:
            records = list(records)
        if isinstance(records, list) and not records:
            return []
        is_column = isinstance(records, Sequence) and not isinstance(records, (str, list))
        if is_column or hasattr(records, "column_names"):
            # Of a data set, which the library would take for one input; read one record after another.
            return list(super().__call__((record for record in records), **kwargs))
        return super().__call__(records, **kwargs)

    def _sanitize_parameters(
        self, sampling_rate=None, lead_names=None, units=None, missing_leads=None, top_k: int | None = None
    ) -> tuple[dict, dict, dict]:
        preprocess = {
            "sampling_rate": sampling_rate,
            "lead_names": lead_names,
            "units": units,
            "missing_leads": missing_leads,
        }
        postprocess = {"top_k": top_k}
        if top_k is not None and top_k < 1:
            raise ValueError(f"`top_k` must be at least 1, got {top_k}.")
        return _without_none(preprocess), {}, _without_none(postprocess)

    def preprocess(self, record, missing_leads: str = "zero", **recording):
        """Yield the windows of one record."""
        name = _name_of(record)
        if isinstance(record, (str, os.PathLike)):
            recording = self._read_recording(record)
        elif hasattr(record, "sig_name"):
            recording = wfdb_recording(record)
        else:
            recording = _as_recording(record, recording)
        try:
            self._check_length(recording)
            if np.ptp(np.asarray(recording["signal"], dtype=np.float64), axis=-1).max(initial=0) == 0:
                raise ValueError("the record is flat in all leads: there is nothing to classify.")
            features = self.feature_extractor(**recording, missing_leads=missing_leads)
        except ValueError as error:
            raise ValueError(str(error) if name is None else f"{name}: {error}") from error
        num_windows = len(features["input_values"])
        for window in range(num_windows):
            rows = {name: tensor[window : window + 1] for name, tensor in features.items()}
            yield {"is_last": window == num_windows - 1, "window": rows, "record": name or "a record"}

    def _check_length(self, recording: dict[str, Any]) -> None:
        """`ValueError` for a record of which the model would see little but padding."""
        rate, samples = recording.get("sampling_rate"), np.shape(recording["signal"])[-1]
        if np.ndim(recording["signal"]) == 1:
            samples //= max(len(recording["lead_names"]), 1)
        if not samples or not isinstance(rate, numbers.Real) or not rate > 0:
            return  # refused by the feature extractor
        config = self.model.config
        window, token = (count / config.sampling_rate for count in (config.num_samples, config.patch_size))
        if samples / rate < max(token, MIN_SHARE_OF_WINDOW * window):
            raise ValueError(
                f"the record has {samples / rate:g} s, of which the model reads windows of {window:g} s: shorter than "
                f"a tenth of one, or than a token ({token:g} s), it would be classified by padding. Give a longer one."
            )

    def _read_recording(self, path: str | os.PathLike) -> dict[str, Any]:
        """The feature extractor's arguments for a WFDB record, with the leads that the model has or can compute."""
        lead_names = list(self.feature_extractor.lead_names)
        if not self.feature_extractor.lead_tokens and not set(LEAD_NAMES[:6]).isdisjoint(lead_names):
            lead_names += ["I", "II", "III"]
        record = read_record(path, lead_names=lead_names)
        return {
            "signal": record.signal,
            "sampling_rate": record.sampling_rate,
            "lead_names": record.lead_names,
            "units": "uV",
        }

    def _forward(self, model_inputs: dict[str, Any]) -> dict[str, Any]:
        # The library would pad tensors to a common shape; dicts it leaves alone, one by itself or a batch as a list.
        windows = model_inputs["window"]
        if isinstance(windows, dict):
            windows = [windows]
        logits = [None] * len(windows)
        for rows in _alike(windows):
            batch = {name: torch.cat([windows[row][name] for row in rows]) for name in windows[rows[0]]}
            for row, row_logits in zip(rows, self.model(**batch).logits, strict=True):
                logits[row] = row_logits
        passed_on = {name: model_inputs[name] for name in ("is_last", "record")}
        return {**passed_on, "logits": torch.stack(logits)}

    def postprocess(self, windows: list[dict[str, torch.Tensor]], top_k: int | None = None) -> list[dict[str, Any]]:
        config = self.model.config
        logits = torch.cat([window["logits"] for window in windows]).float()
        self._check_logits(logits, windows[0]["record"])
        scores = self.model.aggregate_windows(logits[None])[0].sigmoid().tolist()
        thresholds = config.thresholds or [0.5] * len(scores)
        names = config.label_names or {}
        findings = [
            {
                "label": config.id2label[index],
                "name": names.get(config.id2label[index], config.id2label[index]),
                "score": score,
                "threshold": threshold,
                "positive": score >= threshold,
            }
            for index, (score, threshold) in enumerate(zip(scores, thresholds, strict=True))
        ]
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
            recording["sampling_rate"] = recording["sampling_rate"].item()
    lead_names = recording.get("lead_names")
    shape = np.shape(signal)
    is_row = len(shape) == 1 and lead_names is not None
    if not (len(shape) == 2 or is_row) or np.ndim(lead_names) > 1:
        raise ValueError(
            f"One record has shape (leads, samples) and one list of `lead_names`, got {shape} and {lead_names}. Pass "
            "several records as a list."
        )
    if is_row and isinstance(record, Mapping) and np.asarray(signal).dtype.kind in "iu":
        recording = {"units": "uV", **recording}
    return {"signal": signal, **recording}


def _name_of(record) -> str | None:
    """What messages call a record; None for an array."""
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


def _check_same_input(feature_extractor, config: ECGTransformerConfig):
    for name in ("sampling_rate", "lead_names"):
        given, expected = getattr(feature_extractor, name), getattr(config, name)
        if given != expected:
            raise ValueError(
                f"The feature extractor was made for another model: its `{name}` is {given}, the model's {expected}."
            )


def _without_none(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}


__all__ = ["ECGClassificationPipeline"]
