"""Where weights come from: what `config.provenance` says of it, from one stage of training to the next."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable

from transformers import PreTrainedConfig

from ..cards import CODE_LICENSE, UNKNOWN_FOLD


def note_base(config: PreTrainedConfig) -> None:
    """Note the checkpoint that a model was loaded from, as `base`; a new model has the licence of this code.

    Of a folder only its own name is noted. A classifier that does not say what it was trained on may have seen any
    record.
    """
    provenance = dict(config.provenance or {})
    loaded_from = config._name_or_path
    if loaded_from not in ("", "None"):  # the latter after a conversion, which states its source
        provenance["base"] = base_name(loaded_from)
        if "ptbxl_folds" in provenance:
            # What a classifier learned from counts like pre-training for what is made of it.
            unknown = [] if config.thresholds is None else [UNKNOWN_FOLD]
            learned_from = provenance.pop("posttraining_folds", unknown)
            provenance["ptbxl_folds"] = _merged(provenance["ptbxl_folds"], learned_from)
    elif not provenance:
        provenance = {"license": CODE_LICENSE}
    config.provenance = provenance


def base_name(loaded_from: str) -> str:
    """The id of a checkpoint on the Hub, or the name of its folder, without a path of this machine."""
    path = pathlib.Path(loaded_from).expanduser()
    if path.exists():
        return path.resolve().name
    return path.name if path.is_absolute() or len(path.parts) > 2 else loaded_from


def note_pretraining(
    config: PreTrainedConfig, records: str, folds: Iterable[int | str], reports: str | None = None
) -> None:
    """Note on what records a model is pre-trained, in words and by their folds of PTB-XL, beside those of its base.

    `reports` says in words which reports of the records supervise it, if any do.
    """
    provenance = dict(config.provenance or {})
    earlier = provenance.get("pretraining_data")
    earlier = earlier if earlier is None or isinstance(earlier, str) else ", ".join(earlier)
    before = provenance.get("ptbxl_folds", [UNKNOWN_FOLD] if "base" in provenance else [])
    if earlier is None:
        earlier = "records that its base does not state" if "base" in provenance else ""
    text = _and_then(earlier, records)
    config.provenance = {**provenance, "pretraining_data": text, "ptbxl_folds": _merged(before, folds)}
    if reports is not None:
        config.provenance["pretraining_reports"] = _and_then(provenance.get("pretraining_reports"), reports)


def _and_then(earlier: str | None, added: str) -> str:
    if not earlier:
        return added
    return earlier if earlier.endswith(added) else f"{earlier}, then {added}"


def note_posttraining(config: PreTrainedConfig, folds: Iterable[int | str]) -> None:
    """Note of what folds of PTB-XL the records are that a classifier learned its labels from."""
    config.provenance = {**(config.provenance or {}), "posttraining_folds": _merged(folds)}


def _merged(*folds: Iterable[int | str]) -> list[int | str]:
    return sorted(set().union(*folds), key=lambda fold: (isinstance(fold, str), fold))


__all__ = ["base_name", "note_base", "note_posttraining", "note_pretraining"]
