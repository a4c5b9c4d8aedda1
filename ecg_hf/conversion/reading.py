"""Safe reading of untrusted checkpoints: tensors and plain values, without importing or executing anything."""

from __future__ import annotations

import hashlib
import pathlib
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from safetensors.torch import load_file

from ..files import read_object
from ..model_folder import check_is_no_pointer, whole_weights

WEIGHT_FILES = ("model.safetensors", "pytorch_model.bin")

# Further exceptions that torch raises for truncated or crafted files.
_DAMAGE = (RuntimeError, ValueError, LookupError, EOFError, OSError, AssertionError, AttributeError, TypeError)

# Sentences of torch that tell how to load a file that may execute anything.
_ADVICE = re.compile(r"weights_only|safe_globals|torch\.load|torch\.jit|trust|weights only", re.IGNORECASE)

# What training wrappers put into names: of the whole model before every one, of a part before those of the part.
_OF_PARTS = re.compile(r"(?<![^.])(_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module)\.")
_OF_ALL = "module."


class InertObject:
    """Placeholder for an object of any class in the file: it only stores the state given by the file."""

    def __new__(cls, *args, **kwargs):
        return object.__new__(cls)

    def __init__(self, *args, **kwargs):
        self.state = {}

    def __setstate__(self, state):
        # Objects with slots have the pair (state, slots).
        self.state = state[0] if isinstance(state, tuple) and len(state) == 2 else state


def plain(value):
    """`value` with its objects replaced by the dictionaries and lists in their fields, if these are known."""
    if isinstance(value, InertObject):
        state = getattr(value, "state", None)
        if not isinstance(state, Mapping):
            return None
        for content in ("_content", "_val"):  # of omegaconf's containers and values
            if content in state:
                return plain(state[content])
        return plain(state)
    if isinstance(value, Mapping):
        return {key: plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(entry) for entry in value]
    return value


@dataclass
class Checkpoint:
    """The content of a checkpoint file."""

    path: pathlib.Path
    sha256: str
    """Of the file with the weights."""
    tensors: dict[str, torch.Tensor]
    """The state dict, without what training wrappers put into its names."""
    content: dict = field(default_factory=dict)
    """All other top-level entries, with objects as dictionaries."""


def read_checkpoint(path) -> Checkpoint:
    """Read a torch or safetensors file, or a folder with `config.json` and such a file.

    Raises:
        FileNotFoundError: there is no such file, or no weights in the folder.
        ValueError: it is a pipe or a device; or the file is damaged, has no tensors, or contains objects that the
            reader rejects.
    """
    path = pathlib.Path(path)
    file, config = path, {}
    if path.is_dir():
        found = [path / name for name in WEIGHT_FILES if _is_file(path / name)]
        if not found:
            raise FileNotFoundError(f"The folder `{path}` has none of {', '.join(WEIGHT_FILES)}.")
        file = found[0]
        if _is_file(path / "config.json"):
            config = {"config": read_object(path / "config.json")}
    elif not _is_file(path):
        raise FileNotFoundError(f"There is no checkpoint at `{path}`.")
    check_is_no_pointer(file)
    if file.suffix == ".safetensors":
        content = _read_safetensors(file)
    else:
        content = _read_torch(file)
    tensors, rest = _split_state_dict(content, file)
    return Checkpoint(path, _sha256(file), _without_wrappers(tensors), {**plain(rest), **config})


def _is_file(path: pathlib.Path) -> bool:
    """Whether there is a file; `ValueError` for what is none, such as a pipe, which might never end."""
    if path.exists() and not path.is_file():
        raise ValueError(f"`{path}` is not a regular file: give the file of a checkpoint, or a folder with one.")
    return path.is_file()


def _read_safetensors(file: pathlib.Path) -> dict[str, torch.Tensor]:
    with whole_weights(file):
        # Copies, since the file is memory-mapped and may be overwritten later.
        return {name: tensor.clone() for name, tensor in load_file(file).items()}


def _read_torch(file: pathlib.Path):
    # The causes are left out of all messages, since torch advises to load what it refuses.
    is_zip = zipfile.is_zipfile(file)
    try:
        names = torch.serialization.get_unsafe_globals_in_checkpoint(str(file)) if is_zip else []
        with torch.serialization.safe_globals([_stand_in(name) for name in names]), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*looks like a TorchScript archive")
            return torch.load(file, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        if is_zip:
            raise ValueError(
                f"`{file}` was rejected: it contains more than tensors, plain values and plain objects "
                f"({_reason(error.__context__ or error)})."
            ) from None
        raise ValueError(
            f"`{file}` is not a complete file of `torch.save`: it is damaged, cut short or of another format. Files "
            "from before torch 1.6 may contain only tensors and plain values."
        ) from None
    except _DAMAGE as error:
        if "torchscript" in str(error).casefold():
            raise ValueError(
                f"`{file}` is a TorchScript archive, which holds a program: give the checkpoint with the tensors."
            ) from None
        raise ValueError(
            f"`{file}` is damaged or of another format ({type(error).__name__}: {_reason(error)})."
        ) from None


def _reason(error: BaseException) -> str:
    """The message of an error without torch's advice."""
    sentences = (sentence.strip() for sentence in re.split(r"(?<=[.!])\s+|\n", str(error)))
    return (
        " ".join(sentence for sentence in sentences if sentence and not _ADVICE.search(sentence)) or "torch refuses it"
    )


def _stand_in(name: str):
    if name == "collections.defaultdict":  # the reader only fills true dictionaries
        return (lambda *args: {}, name)
    return (type(name.rpartition(".")[2], (InertObject,), {}), name)


def _split_state_dict(content, file: pathlib.Path) -> tuple[dict[str, torch.Tensor], dict]:
    """The state dict, at the top level or one below, and the other top-level entries."""
    if not isinstance(content, Mapping):
        raise ValueError(f"`{file}` contains a {type(content).__name__}, but a dictionary of tensors was expected.")
    if _is_state_dict(content):
        return dict(content), {}
    for name in ("model", "model_state_dict", "encoder", "state_dict"):
        if _is_state_dict(content.get(name)):
            return dict(content[name]), {key: value for key, value in content.items() if key != name}
    raise ValueError(f"`{file}` contains no state dict, only {', '.join(map(repr, list(content)[:10]))}.")


def _is_state_dict(value) -> bool:
    return (
        isinstance(value, Mapping) and bool(value) and all(isinstance(part, torch.Tensor) for part in value.values())
    )


def _without_wrappers(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    found = {_OF_PARTS.sub("", name): tensor for name, tensor in tensors.items()}
    if len(found) == len(tensors):  # else one weight is there twice, and it is not known which counts
        tensors = found
    while all(name.startswith(_OF_ALL) for name in tensors):
        tensors = {name.removeprefix(_OF_ALL): tensor for name, tensor in tensors.items()}
    return tensors


def _sha256(file: pathlib.Path) -> str:
    digest = hashlib.sha256()
    with open(file, "rb") as stream:
        while block := stream.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


__all__ = ["Checkpoint", "InertObject", "read_checkpoint"]
