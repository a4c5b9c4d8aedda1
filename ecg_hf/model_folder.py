"""Checkpoints as the commands take them: found and checked before anything is loaded, so that all say the same."""

from __future__ import annotations

import contextlib
import os
import re
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers.utils import cached_file

from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from .ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from .files import read_object
from .shipped import installed, located

CONFIG, EXTRACTOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
"""Of weights in several files."""

_POINTER = b"version https://git-lfs.github.com/spec/"

# What entries of wrong types make of the code that reads them.
_UNUSABLE = (StrictDataclassError, TypeError, ValueError, AttributeError, LookupError)


@contextlib.contextmanager
def checkpoint_of(name: str | os.PathLike) -> Iterator[str | os.PathLike]:
    """A block that loads a checkpoint from the folder or the Hub id that it yields.

    Raises `FileNotFoundError` for a name that is neither a folder here, nor shipped, nor `owner/name` of the Hub,
    without asking the Hub, and for one that the Hub does not give; `ValueError` for another model than an ECG
    Transformer; and, of a folder, what `check_model_folder` does.
    """
    place = located(name)
    if os.path.exists(place):
        check_model_folder(place)
        yield place
        return
    ways = f"`{name}` is no folder here, and no checkpoint of this installation ({', '.join(installed()) or 'none'})"
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", os.fspath(place)):
        raise FileNotFoundError(f"{ways}; an id of the Hub would be `owner/name`.")
    try:
        if (config := cached_file(place, CONFIG)) is None:  # the library raises for all other files alone
            raise FileNotFoundError(
                f"it has no {CONFIG}; `ecg-hf convert` makes a checkpoint of the files of other ECG projects"
            )
        _check_kind(place, read_object(config))
        yield place
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"{ways}, and as an id of the Hub it cannot be loaded: {reason}") from error


def check_model_folder(folder: str | os.PathLike) -> None:
    """Raise unless a folder holds a whole checkpoint of an ECG Transformer with its feature extractor.

    Whether the weights fit the configuration is seen when they are loaded.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: it is no folder, a model of another type, or a file that is damaged; the message names it.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise ValueError(
            f"`{folder}` is a file, expected the folder of a checkpoint: give the one that holds it, or bring a "
            "checkpoint of another project into one by `ecg-hf convert`."
        )
    config = read_object(_existing(folder, CONFIG))
    _check_kind(folder, config)
    _check_builds(folder / CONFIG, ECGTransformerConfig.from_dict, config)
    extractor = _existing(folder, EXTRACTOR)
    _check_builds(extractor, ECGTransformerFeatureExtractor.from_dict, read_object(extractor))
    for name in _weight_files(folder):
        check_weights(_existing(folder, name))


def check_weights(file: str | os.PathLike) -> None:
    """`ValueError` for a safetensors file that is cut short or another file; the tensors are not read."""
    check_is_no_pointer(file)
    with whole_weights(file), safe_open(file, "pt"):
        pass


def check_is_no_pointer(file: str | os.PathLike) -> None:
    """`ValueError` for what git leaves in place of a large file that it has not fetched."""
    with open(file, "rb") as stream:
        if stream.read(len(_POINTER)) == _POINTER:
            raise ValueError(
                f"`{file}` is a pointer of git-lfs, not the weights: run `git lfs pull` in its folder, or download "
                "the file itself."
            )


@contextlib.contextmanager
def whole_weights(file: str | os.PathLike) -> Iterator[None]:
    """A block that reads a safetensors file; `ValueError` where that is damaged."""
    try:
        yield
    except SafetensorError as error:
        raise ValueError(f"`{file}` is no whole safetensors file ({error}): download it again.") from error


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise FileNotFoundError(
            f"`{folder}` lacks {name}, without it the model cannot be loaded: give the folder of a checkpoint of "
            "`ecg-hf train`, `pretrain` or `convert`."
        )
    return folder / name


def _check_kind(name: str | os.PathLike, config: dict[str, Any]) -> None:
    kind, expected = config.get("model_type"), ECGTransformerConfig.model_type
    if kind != expected:
        raise ValueError(
            f"`{name}` is no ECG Transformer: its {CONFIG} has the `model_type` {kind!r}, expected {expected!r}. Give "
            "a checkpoint of `ecg-hf train` or `pretrain`; `ecg-hf convert` makes one of those of other ECG projects."
        )


def _check_builds(file: Path, build: Callable[[dict], object], fields: dict[str, Any]) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Given when it is loaded.
            build(fields)
    except _UNUSABLE as error:
        reason = error.__cause__ if isinstance(error, StrictDataclassError) and error.__cause__ else error
        raise ValueError(f"`{file}` cannot be used ({reason}): get the file again, or mend this entry.") from error


def _weight_files(folder: Path) -> list[str]:
    if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file():
        return [WEIGHTS]
    files = read_object(folder / INDEX).get("weight_map")
    if not isinstance(files, dict) or not files:
        raise ValueError(f"`{folder / INDEX}` has no `weight_map`, the files of the weights: download it again.")
    return sorted(set(files.values()))


__all__ = ["check_is_no_pointer", "check_model_folder", "check_weights", "checkpoint_of", "whole_weights"]
