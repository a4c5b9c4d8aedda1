"""Write what `ecg-hf COMMAND --help` prints, after a change of flags: `python training/write_help.py`."""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import inspect
import io
import os
from collections.abc import Sequence
from unittest import mock

from ecg_hf import cli
from ecg_hf.command import RUNS, dataclass_parser
from ecg_hf.help import TEXTS, WIDTH
from ecg_hf.post_training.data import OF_TRAINING, TaskArguments
from ecg_hf.pretraining.run import RecordArguments
from ecg_hf.runs.arguments import ModelArguments

KINDS = {
    "pretrain": cli.pretraining_arguments,
    "train": cli.post_training_arguments,
    "evaluate": cli.evaluation_arguments,
    "export": cli.export_arguments,
}
"""The commands whose flags are the fields of dataclasses."""

_OUTPUT = (
    *(
        "output_dir",
        "dry_run",
        "resume_from_checkpoint",
        "keep_best_stage",
        "num_bootstrap_resamples",
        "save_strategy",
    ),
    *("save_total_limit", "restore_callback_states_from_checkpoint", "logging_steps", "logging_nan_inf_filter"),
    *("log_level_replica", "disable_tqdm", "push_to_hub", "hub_model_id", "hub_private_repo"),
)
_PREPARED = ("prepare_records", "prepared_cache")
GROUPS = {
    "pretrain": {
        "model": lambda name: name in _fields(ModelArguments),
        "data": lambda name: name in _fields(RecordArguments) or name in _PREPARED,
        "output": lambda name: name in _OUTPUT,
        "probe, which reads the encoder's quality on the way": lambda name: name.startswith("probe_"),
        "pre-training": lambda name: True,
    },
    "train": {
        "model": lambda name: name in _fields(ModelArguments),
        "data": lambda name: name in _fields(TaskArguments) or name in _PREPARED,
        "output": lambda name: name in _OUTPUT,
        "probe": lambda name: name.startswith("probe_") or name == "feature_cache",
        "LoRA": lambda name: name.startswith("lora_"),
        "fine-tuning, and what the stages share": lambda name: True,
    },
}
"""For each run the titles of its flags; a flag is in the first group that takes it."""

ORDER = {"pretrain": (0, 1, 4, 3, 2), "train": (0, 1, 3, 5, 4, 2)}
"""How the groups are printed."""

# Of the library's own flags those that most runs need.
LIBRARYS = (
    *("num_train_epochs", "max_steps", "per_device_train_batch_size", "seed", "save_total_limit", "disable_tqdm"),
)
OF_HUB = ("hub_model_id", "hub_private_repo")


def help_texts() -> dict[str, str]:
    """The text of each command, made from its parser."""
    with mock.patch.dict(os.environ, {"COLUMNS": str(WIDTH + 2)}):
        return {name: _of_dataclasses(name) if name in KINDS else _of_parser(name) for name in cli.COMMANDS}


def _of_parser(name: str) -> str:
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed), contextlib.suppress(SystemExit):
        cli.COMMANDS[name](["--help"])
    return printed.getvalue()


def _of_dataclasses(name: str) -> str:
    parts = [f"usage: ecg-hf {name} [--config FILE.yaml] [--FLAG VALUE ...]", inspect.getdoc(cli.COMMANDS[name])]
    parts.append("`--config FILE.yaml` holds flags as `name: value` lines, which those of the command line override.")
    if name in RUNS:
        parts += _groups_of_run(name)
        parts.append(f"`ecg-hf {name} --help-all` also lists the other flags of transformers' TrainingArguments.")
    else:
        parts += [_group([kind], _own_fields(kind) - set(OF_TRAINING), _title_of(kind)) for kind in KINDS[name]()]
    return "\n\n".join(parts) + "\n"


def _groups_of_run(name: str) -> list[str]:
    kinds, found = KINDS[name](), {title: set() for title in GROUPS[name]}
    own = set().union(*map(_own_fields, kinds)) | set(LIBRARYS)
    for field in own | set(OF_HUB if "push_to_hub" in own else ()):
        title = next(title for title, takes in GROUPS[name].items() if takes(field))
        found[title].add(field)
    titles = list(found)
    return [_group(kinds, found[titles[place]], titles[place]) for place in ORDER[name]]


def _fields(kind: type) -> set[str]:
    return {field.name for field in dataclasses.fields(kind)}


def _own_fields(kind: type) -> set[str]:
    """The fields that a dataclass has from this package."""
    bases = [base for base in kind.__mro__ if base.__module__.startswith("ecg_hf.")]
    return {name for base in bases for name in vars(base).get("__annotations__", {})}


def _title_of(kind: type) -> str:
    return inspect.getdoc(kind).splitlines()[0].rstrip(".").replace("[`", "").replace("`]", "")


def _group(kinds: Sequence[type], names: set[str], title: str) -> str:
    """The flags of some fields of dataclasses, under a title."""
    parser = dataclass_parser(kinds, usage=argparse.SUPPRESS, add_help=False)
    for action in parser._actions:
        if action.dest not in names:
            action.help = argparse.SUPPRESS
    return parser.format_help().strip().replace("options:", f"{title}:", 1)


def main() -> None:
    TEXTS.mkdir(exist_ok=True)
    for file in TEXTS.glob("*.txt"):
        file.unlink()
    for name, text in help_texts().items():
        (TEXTS / f"{name}.txt").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
