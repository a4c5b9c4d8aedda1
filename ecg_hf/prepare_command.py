"""The command `ecg-hf prepare`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from .command import Parser, add_facts
from .loading import load
from .runs.signals import end_as_usual


def prepare(argv: Sequence[str] | None = None) -> dict:
    """Write any records as Parquet shards, with labels for `ecg-hf train --streaming`, without for `ecg-hf pretrain
    --streaming`, which read them from wherever they lie."""
    parser = Parser(prog="ecg-hf prepare", description=prepare.__doc__)
    parser.add_argument("--data_dir", help="PTB-XL folder, or any folder of ECG files; of a table, where paths begin")
    parser.add_argument("--table", help="CSV or Parquet file with one row for each record")
    parser.add_argument("--output_dir", required=True, help="where the shards go; called again, it goes on there")
    parser.add_argument("--shard_size", type=int, default=1000, help="records of a shard (default: 1000)")
    parser.add_argument("--num_proc", type=int, default=1, help="processes, each of which writes a shard at a time")
    parser.add_argument("--max_skipped", type=float, default=0.01, help="share that may be skipped (default: 0.01)")
    parser.add_argument("--record_column", default="path", help="of a table: the column of paths (default: path)")
    parser.add_argument("--patient_column", help="of a table: the column of patients")
    parser.add_argument("--split_column", help="of a table: the column of train, validation and test")
    add_facts(parser)
    without = _of_pretraining(parser)
    with_labels = _of_labels(parser)
    arguments = vars(parser.parse_args(argv))
    labelled = any(arguments[name] is not None for name in _ARE_LABELS)
    for name in without if labelled else with_labels:
        if (value := arguments.pop(name)) is not None and value is not False:
            reason = "for shards without labels" if labelled else f"for labels, `--{'`, `--'.join(_ARE_LABELS)}`"
            parser.error(f"`--{name}` is {reason}: leave it out, got {value}.")
    arguments = {name: value for name, value in arguments.items() if value is not None}
    return _prepare_labelled(arguments) if labelled else _prepare_unlabelled(arguments)


_ARE_LABELS = ("task", "label_columns", "label_column", "labels")


def _of_pretraining(parser: argparse.ArgumentParser) -> list[str]:
    """Flags of shards without labels -> their names."""
    group = parser.add_argument_group("without labels")
    actions = [
        group.add_argument("--min_seconds", type=float, help="skip shorter records (default: 1)"),
        group.add_argument("--allow_test_folds", action="store_true", help="take records of PTB-XL's folds 9 and 10"),
        group.add_argument("--ptbxl_dir", help="PTB-XL folder, whose table tells the folds of copies of its records"),
    ]
    return [action.dest for action in actions]


def _of_labels(parser: argparse.ArgumentParser) -> list[str]:
    """Flags of shards with labels, as `ecg-hf train` has them -> their names."""
    group = parser.add_argument_group("with labels: one of the first four, as for `ecg-hf train`")
    actions = [
        group.add_argument("--task", help="of PTB-XL: all, diagnostic, subdiagnostic, superdiagnostic, form, rhythm"),
        group.add_argument("--label_columns", nargs="+", help="of a table: columns of 0, 1 or nothing"),
        group.add_argument("--label_column", help="of a table: a column of lists, codes or classes"),
        group.add_argument(
            "--labels",
            nargs="+",
            help="of that column; of a Challenge's folder codes, `dx` or `scored`; of CODE-15 %%",
        ),
        group.add_argument("--problem_type", help="default: multi_label_classification"),
        group.add_argument("--validation_table", help="table of the validation records"),
        group.add_argument("--test_table", help="table of the test records"),
        group.add_argument("--split_fractions", nargs=3, type=float, help="shares of a split by patient"),
        group.add_argument("--split_seed", type=int, help="seed of that split"),
        group.add_argument("--skip_missing_records", action="store_true", help="of PTB-XL: skip absent files"),
        group.add_argument("--cache_dir", help="where the Arrow copy of the records is kept, to be copied from"),
    ]
    return [action.dest for action in actions]


def _prepare_labelled(arguments: dict) -> dict:
    run = load("post_training.shards")
    end_as_usual()
    from .post_training.run import TaskArguments

    output_dir, shard_size = arguments.pop("output_dir"), arguments.pop("shard_size")
    manifest = run.prepare_labelled(TaskArguments(**arguments), output_dir, shard_size=shard_size)
    _say_prepared(manifest, output_dir, "train")
    return manifest


def _prepare_unlabelled(arguments: dict) -> dict:
    run = load("pretraining.prepare")
    end_as_usual()
    from .pretraining.run import RecordArguments

    output_dir = arguments.pop("output_dir")
    names = ("shard_size", "min_seconds", "split_column")
    of_shards = {name: arguments.pop(name) for name in names if name in arguments}
    arguments["probe_data_dir"] = arguments.pop("ptbxl_dir", None)
    manifest = run.prepare(RecordArguments(**arguments), output_dir, **of_shards)
    _say_prepared(manifest, output_dir, "pretrain")
    return manifest


def _say_prepared(manifest: dict, output_dir: str, command: str) -> None:
    counts = ", ".join(f"{split['num_records']:,} {name}" for name, split in manifest["splits"].items())
    print(f"{output_dir} holds {counts} records: `ecg-hf {command} --streaming true --data_dir` takes it.")


__all__ = ["prepare"]
