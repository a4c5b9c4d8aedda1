"""`ecg-hf export`: a trained model as ONNX, from windows to probabilities, checked against what it was made from."""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from ..command import without_progress_bars
from ..ecg_transformer.common_ecg_transformer import MULTI_LABEL, REGRESSION, SINGLE_LABEL
from ..ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ..ecg_transformer.modeling_ecg_transformer import ECGTransformerForMultiLabel
from ..files import whole_file, write_atomic
from ..model_folder import checkpoint_of
from ..version import __version__
from .output import check_output

MAX_DIFFERENCE = 1e-4
"""Between the outputs of the file and of the model, relative to values above 1."""
CHECKED_BATCHES = (1, 2, 7)

_ACTIVATIONS = {
    MULTI_LABEL: ("probabilities", torch.nn.Sigmoid()),
    SINGLE_LABEL: ("probabilities", torch.nn.Softmax(dim=-1)),
    REGRESSION: ("values", torch.nn.Identity()),
}
_QUANTIZED = ["MatMul", "Gemm"]
"""Operations whose weights get 8 bits: the linear layers. Convolutions in int8 are slower than in float32."""


class ExportError(RuntimeError):
    """The file does not give what the model gives."""


class WindowScores(torch.nn.Module):
    """(batch, leads, samples) and, for models that read it, `attention_mask` (batch, samples), to the outputs.

    The outputs (batch, labels) are of windows: probabilities of labels or classes, or values of a regression. What a
    record gets from its windows is the model's `window_aggregation`, which stands in the file's metadata.
    """

    def __init__(self, model: ECGTransformerForMultiLabel):
        super().__init__()
        self.model = model
        self.output_name, self.activation = _ACTIVATIONS[model.config.problem_type]

    def forward(self, input_values: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        logits = self.model(input_values=input_values, attention_mask=attention_mask).logits
        return self.activation(logits / self.model.config.temperature)


@dataclass(frozen=True)
class Exported:
    """A model with its feature extractor, and what its ONNX file is fed with."""

    scores: WindowScores
    extractor: ECGTransformerFeatureExtractor

    @property
    def input_names(self) -> list[str]:
        return ["input_values", "attention_mask"][: 1 + self.extractor.return_attention_mask]

    def random_inputs(self, batch: int, seed: int = 0) -> tuple[torch.Tensor, ...]:
        """Normal noise, and a mask in which the first window has half its samples."""
        generator = torch.Generator().manual_seed(seed)
        shape = (batch, len(self.extractor.lead_names), self.extractor.num_samples)
        values = torch.randn(shape, generator=generator)
        if not self.extractor.return_attention_mask:
            return (values,)
        mask = torch.ones((batch, shape[2]), dtype=torch.long)
        mask[0, shape[2] // 2 :] = 0
        return values, mask


class OnnxFile(NamedTuple):
    """What is said of a file: its path, its size in MB and the largest difference to the model's outputs."""

    path: Path
    megabytes: float
    difference: float


def export_onnx(model: str, output: str | os.PathLike, *, int8: bool = False) -> list[OnnxFile]:
    """Write the model to `output` (`X.onnx`), and with `int8` also to `X.int8.onnx`.

    Temperature and sigmoid (softmax for one of several classes) are inside, the batch is dynamic, leads and samples
    are fixed. The file's metadata have labels, thresholds, rate, leads and window; `preprocessor_config.json` beside
    it is the feature extractor that makes the windows.

    Args:
        model: folder or Hub id of a post-trained checkpoint.
        output: each file is written whole or not at all.
        int8: weights of linear layers in 8 bits, activations quantised as they come (dynamic quantisation), by one
            step for all windows of a batch: outputs depend a little on the others of the batch.

    Raises:
        ImportError: the packages of the extra `export` are not installed.
        ValueError: the model has no trained head, or the ending is not `.onnx`.
        FileExistsError: another `preprocessor_config.json` lies beside `output`.
        ExportError: the file's outputs differ from the model's by more than `MAX_DIFFERENCE`.
    """
    check_export(output)
    output = Path(output)
    exported = load_exported(model)
    settings = output.with_name("preprocessor_config.json")
    settings_text = exported.extractor.to_json_string()
    if settings.is_file() and settings.read_text(encoding="utf-8") != settings_text:
        raise FileExistsError(f"{settings} is of another model: choose another folder for `--output`.")
    files = [_write_float32(exported, output)]
    if int8:
        files.append(_write_int8(exported, output))
    write_atomic(settings, settings_text)
    return files


def check_export(output: str | os.PathLike) -> None:
    """Before the work: raise what `export_onnx` raises for missing packages and for `output`."""
    for package in ("onnx", "onnxruntime", "onnxscript"):
        _need(package)
    check_output(output, (".onnx",))


def load_exported(path: str) -> Exported:
    """The model in evaluation mode and float32, with its feature extractor."""
    with without_progress_bars(), checkpoint_of(path):
        model = ECGTransformerForMultiLabel.from_pretrained(path)
    if model.head_is_random:
        raise ValueError(f"`{path}` has no trained head: post-train it before it is exported.")
    return Exported(WindowScores(model.float().eval()).eval(), ECGTransformerFeatureExtractor.from_pretrained(path))


def session_of(path: str | os.PathLike):
    """An `onnxruntime` session on the CPU."""
    runtime = _need("onnxruntime")
    return runtime.InferenceSession(os.fspath(path), providers=["CPUExecutionProvider"])


def run_session(session, inputs: Sequence[torch.Tensor]) -> np.ndarray:
    names = [entry.name for entry in session.get_inputs()]
    return session.run(None, {name: tensor.numpy() for name, tensor in zip(names, inputs, strict=True)})[0]


def largest_difference(exported: Exported, path: str | os.PathLike) -> float:
    """Between file and model, over random windows in batches of `CHECKED_BATCHES`; relative to values above 1."""
    session, largest = session_of(path), []
    for batch in CHECKED_BATCHES:
        inputs = exported.random_inputs(batch, seed=batch)
        with torch.no_grad():
            expected = exported.scores(*inputs).numpy()
        differences = np.abs(run_session(session, inputs) - expected) / np.maximum(np.abs(expected), 1)
        largest.append(differences.max())
    return float(np.max(largest))  # NaN if one is


def metadata_of(exported: Exported) -> dict[str, str]:
    """What stands in the file beside the weights; numbers, lists and dicts as JSON."""
    config, extractor = exported.scores.model.config, exported.extractor
    is_multi_label = config.problem_type == MULTI_LABEL
    entries: dict[str, Any] = {
        "labels": config.labels,
        "label_names": config.label_names,
        "problem_type": config.problem_type,
        "thresholds": config.thresholds or ([0.5] * len(config.labels) if is_multi_label else None),
        "window_aggregation": config.window_aggregation,
        "sampling_rate": extractor.sampling_rate,
        "lead_names": extractor.lead_names,
        "num_samples": extractor.num_samples,
        "provenance": config.provenance,
    }
    texts = {name: value if isinstance(value, str) else json.dumps(value) for name, value in entries.items()}
    return {"producer": f"ecg-hf {__version__}", **texts}


def _write_float32(exported: Exported, output: Path) -> OnnxFile:
    onnx, inputs = _need("onnx"), exported.random_inputs(2)
    with _quiet():
        program = torch.onnx.export(
            exported.scores,
            inputs,
            dynamo=True,
            dynamic_shapes=({0: "batch"},) * len(inputs),
            input_names=exported.input_names,
            output_names=[exported.scores.output_name],
            verbose=False,
        )
    proto = program.model_proto
    onnx.helper.set_model_props(proto, metadata_of(exported))
    with whole_file(output) as unfinished:
        onnx.save(proto, unfinished)
        difference = largest_difference(exported, unfinished)
        # NaN is no number below the limit either.
        if not difference < MAX_DIFFERENCE:
            raise ExportError(
                f"The ONNX file gives other outputs than `{exported.scores.model.name_or_path}`: they differ by up to "
                f"{difference:.2g} on random windows, the limit is {MAX_DIFFERENCE:g}. Nothing was written."
            )
    return OnnxFile(output, output.stat().st_size / 1e6, difference)


def _write_int8(exported: Exported, source: Path) -> OnnxFile:
    quantization = _need("onnxruntime.quantization")
    output = source.with_suffix(".int8.onnx")
    with whole_file(output) as unfinished:
        with _quiet():
            quantization.quantize_dynamic(
                source, unfinished, weight_type=quantization.QuantType.QInt8, op_types_to_quantize=_QUANTIZED
            )
        difference = largest_difference(exported, unfinished)
    return OnnxFile(output, output.stat().st_size / 1e6, difference)


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the advice of the exporters, on operators of torchvision and the like: what they made is checked."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)
            yield
    finally:
        logging.disable(before)


def _need(package: str):
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ImportError(
            f"`ecg-hf export` needs the package {package.partition('.')[0]}: pip install 'ecg-hf[export]'."
        ) from error


__all__ = [
    "ExportError",
    "Exported",
    "OnnxFile",
    "check_export",
    "export_onnx",
    "largest_difference",
    "load_exported",
    "run_session",
    "session_of",
]
