"""What `ecg-hf info` prints for the report of a bug: versions, device, cache folders; no names of people or hosts."""

from __future__ import annotations

import importlib.metadata
import os
import pathlib
import platform
from collections.abc import Iterator

from .version import __version__

# As in pyproject.toml: the metadata of an installation may be older than the code, or missing.
PACKAGES = {
    "packages": (
        *("accelerate", "datasets", "evaluate", "filelock", "httpx2", "huggingface_hub", "iterative-stratification"),
        *("jinja2", "matplotlib", "numpy", "pandas", "pillow", "pyarrow", "pyyaml", "safetensors", "scikit-learn"),
        *("scipy", "soundfile", "torch", "tqdm", "transformers", "wfdb", "xxhash"),
    ),
    "extra cluster": ("ray",),
    "extra demo": ("gradio",),
    "extra export": ("onnx", "onnxruntime", "onnxscript"),
    "extra peft": ("peft",),
    "extra readers": ("defusedxml", "edfio", "h5py", "pydicom"),
}

_HIDDEN = "..."


def facts() -> Iterator[tuple[str, str]]:
    """Pairs of a title and what there is to say, those first that need no library."""
    yield "ecg-hf", __version__
    yield "Python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for extra, names in PACKAGES.items():
        yield extra, ", ".join(f"{name} {_version(name)}" for name in names)
    yield from _devices()
    yield from _caches()


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "is not installed"


def _devices() -> Iterator[tuple[str, str]]:
    import torch

    from .runs.devices import device_in_words, has_accelerator

    yield "CPU", f"{os.cpu_count()} cores, {torch.get_num_threads()} threads of torch, {_bfloat16(use_cpu=True)}"
    if not has_accelerator():
        yield "GPU", "none"
        return
    kind = torch.accelerator.current_accelerator() or torch.device("xla")
    names = [device_in_words(torch.device(kind.type, index)) for index in range(torch.accelerator.device_count())]
    yield "GPU", f"{', '.join(names)}, {_bfloat16(use_cpu=False)}, CUDA {torch.version.cuda or 'none'}"


def _bfloat16(use_cpu: bool) -> str:
    from .runs.devices import computes_in_bf16

    return "with bfloat16" if computes_in_bf16(use_cpu) else "without bfloat16"


def _caches() -> Iterator[tuple[str, str]]:
    import datasets
    from huggingface_hub import constants

    yield "models", without_names(constants.HF_HUB_CACHE)
    yield "data sets", without_names(datasets.config.HF_DATASETS_CACHE)


def without_names(path: str | os.PathLike) -> str:
    """A path without the names of the user and the machine; the home folder is `~`."""
    path, home = pathlib.Path(path), pathlib.Path.home()
    if path.is_relative_to(home) and home != pathlib.Path(home.anchor):
        path = pathlib.Path("~") / path.relative_to(home)
    hidden = {home.name, platform.node(), os.environ.get("USER"), os.environ.get("LOGNAME")} - {"", None}
    return str(pathlib.Path(*(_HIDDEN if part in hidden else part for part in path.parts)))


def text() -> str:
    """A line for each of the facts."""
    pairs = list(facts())
    width = max(len(title) for title, _ in pairs) + 2
    return "\n".join(f"{title:<{width}}{value}" for title, value in pairs)


__all__ = ["facts", "text", "without_names"]
