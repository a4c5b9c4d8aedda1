"""The command `ecg-hf`, whose subcommands are in `COMMANDS`; the scripts in `training/` call the same functions."""

from __future__ import annotations

import argparse
import difflib
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

from .command import RUNS, Parser, add_facts, parse_dataclasses, run_command, while_it_is_read, without_debug
from .files import whole_folder
from .help import help_of, overview
from .loading import load
from .prepare_command import prepare
from .runs.signals import EndsBySignal, end_as_usual
from .shipped import DEFAULT_CLASSIFIER
from .version import __version__


def _load(name: str) -> ModuleType:
    """A module with the work of a command; from then on a signal interrupts it as usual. Runs say how they resume."""
    module = load(name)
    end_as_usual()
    return module


def _with_config(argv: Sequence[str]) -> list[str]:
    """Put the entries of `--config FILE.yaml`, or `--config=FILE.yaml`, before the other flags, which thus win."""
    argv = list(argv)
    places = [place for place, argument in enumerate(argv) if argument.partition("=")[0] == "--config"]
    if not places:
        return argv
    if len(places) > 1:
        raise ValueError(f"`--config` must be given once, got it {len(places)} times: put all entries into one file.")
    (place,) = places
    _, is_joined, path = argv[place].partition("=")
    end = place + (1 if is_joined else 2)
    path = path if is_joined else "".join(argv[place + 1 : end])
    if not path:
        raise ValueError("`--config` needs the name of a YAML file.")
    from .runs.yaml_flags import yaml_flags

    return [*yaml_flags(path), *argv[:place], *argv[end:]]


def parse_arguments(argv: Sequence[str] | None, *kinds: type) -> tuple:
    """Dataclasses of the kinds given, from flags (by default those of this process) and from `--config FILE.yaml`."""
    return parse_dataclasses(_with_config(sys.argv[1:] if argv is None else argv), kinds)


def pretraining_arguments() -> tuple[type, ...]:
    """The dataclasses whose fields are the flags of `ecg-hf pretrain`."""
    from .pretraining.arguments import PreTrainingArguments
    from .pretraining.run import RecordArguments
    from .runs.arguments import ModelArguments

    return ModelArguments, RecordArguments, PreTrainingArguments


def post_training_arguments() -> tuple[type, ...]:
    """The dataclasses whose fields are the flags of `ecg-hf train`."""
    from .post_training.arguments import PostTrainingArguments
    from .post_training.run import TaskArguments
    from .runs.arguments import ModelArguments

    return ModelArguments, TaskArguments, PostTrainingArguments


def evaluation_arguments() -> tuple[type, ...]:
    """The dataclasses whose fields are the flags of `ecg-hf evaluate`."""
    from .evaluation import EvaluationArguments
    from .post_training.run import TaskArguments

    return EvaluationArguments, TaskArguments


def export_arguments() -> tuple[type, ...]:
    """The dataclasses whose fields are the flags of `ecg-hf export`."""
    from .inference.export_run import ExportArguments
    from .post_training.run import TaskArguments

    return ExportArguments, TaskArguments


def pretrain(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Pre-train an encoder without labels; the flags are the fields of the model, record and training arguments."""
    run = load("pretraining.run").pretrain

    with EndsBySignal() as block:
        arguments = parse_arguments(argv, *pretraining_arguments())
        block.args = args = arguments[-1]
        load("runs.progress").show_messages(args)
        results = run(*arguments)
    where = f"The encoder and its curves are in {args.output_dir}: `ecg-hf train --model_name_or_path` takes it."
    _print_results(results, args, "pretraining.reports", where)
    _leave_processes()
    return results


def train(argv: Sequence[str] | None = None) -> dict[str, float]:
    """Post-train a model; the flags are the fields of the model, data and post-training arguments."""
    post_train = load("post_training.run").post_train

    with EndsBySignal() as block:
        arguments = parse_arguments(argv, *post_training_arguments())
        block.args = args = arguments[-1]
        load("runs.progress").show_messages(args)
        results = post_train(*arguments)
    where = f"The checkpoint, its metrics, predictions and learning curves are in {args.output_dir}"
    _print_results(results, args, "post_training.reports", where)
    _leave_processes()
    return results


def _print_results(results: dict, args, reports: str, where: str) -> None:
    """A table for people, and where everything is; between them the results as JSON where a program reads along."""
    if args.process_index != 0 or not results:  # as after a dry run
        return
    print(load(reports).results_text(args.output_dir))
    if not sys.stdout.isatty():
        print(json.dumps(results, indent=2))
    print(where)


def _is_first_process() -> bool:
    from accelerate import PartialState

    return PartialState().is_main_process


def _leave_processes() -> None:
    """Left to the interpreter's exit, the threads of a process group now and then abort it, after all work is done."""
    from accelerate import PartialState

    PartialState().destroy_process_group()


def evaluate(argv: Sequence[str] | None = None) -> dict:
    """Evaluate a post-trained checkpoint on a split of PTB-XL or of own records, and write a report."""
    run = _load("evaluation")
    if int(os.environ.get("LOCAL_RANK", 0)) > 0:
        load("runs.progress").repeat_nothing()
    arguments = parse_arguments(argv, *evaluation_arguments())
    metrics = run.evaluate(*arguments)
    if _is_first_process():
        print(run.summary(metrics, arguments[0]))
    _leave_processes()
    return metrics


def _records_parser(command: str, description: str) -> argparse.ArgumentParser:
    """With the arguments that `classify` and `embed` share."""
    parser = Parser(prog=f"ecg-hf {command}", description=description)
    parser.add_argument(
        "records",
        nargs="*",
        help="ECG files of any format that is read (WFDB with or without .hea or .dat), folders of them, and tables "
        "(CSV, Parquet) with a column of paths",
    )
    parser.add_argument("--batch_size", type=int, default=32, help="windows in one forward pass")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU where there is one")
    parser.add_argument("--table", help="a table as well, by the flag that `ecg-hf train` has for it")
    parser.add_argument("--record_column", default="path", help="of tables: the column of paths")
    parser.add_argument("--data_dir", help="of tables: where paths begin, by default at the table's folder")
    add_facts(parser)
    return parser


def _records(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> list[str]:
    if not arguments.records and arguments.table is None:
        parser.error("there is no record: give files, folders or tables.")
    return arguments.records


def _add_model(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--model",
        help=f"folder, Hub id, or name of {what} that ships; by default {DEFAULT_CLASSIFIER}, which the package holds",
    )


def _model(arguments: argparse.Namespace) -> str:
    """The checkpoint that was asked for; where none was, the one that ships, and a line on stderr says so."""
    if arguments.model is None:
        print(f"`--model` is not given: {DEFAULT_CLASSIFIER} is used, which ships with ecg_hf.", file=sys.stderr)
        return DEFAULT_CLASSIFIER
    return arguments.model


def _facts(arguments: argparse.Namespace):
    from .inference.sources import Facts

    names = None if arguments.lead_names is None else tuple(arguments.lead_names)
    return Facts(arguments.sampling_rate, arguments.units, names)


def classify(argv: Sequence[str] | None = None) -> None:
    """Print the findings of ECG records; exits with 1 if a record could not be classified, after all others."""
    run = _load("inference.classify")
    parser = _records_parser("classify", classify.__doc__)
    _add_model(parser, "a post-trained checkpoint")
    parser.add_argument("--format", choices=run.FORMATS, help="by default by the ending of --output, else table")
    parser.add_argument("--output", help="file to write, whole or not at all; by default the findings are printed")
    parser.add_argument("--wide", action="store_true", help="CSV with a column of scores for each label")
    parser.add_argument("--top_k", type=int, help="number of labels with the highest scores to print")
    arguments = parser.parse_args(argv)
    run.classify_records(
        _records(parser, arguments),
        _model(arguments),
        output_format=arguments.format,
        output=arguments.output,
        wide=arguments.wide,
        top_k=arguments.top_k,
        batch_size=arguments.batch_size,
        device=arguments.device,
        record_column=arguments.record_column,
        data_dir=arguments.data_dir,
        table=arguments.table,
        facts=_facts(arguments),
    )


def embed(argv: Sequence[str] | None = None) -> None:
    """Write one vector for each ECG record, the mean over its windows of the model's pooled feature."""
    run = _load("inference.embed")
    parser = _records_parser("embed", embed.__doc__)
    _add_model(parser, "an encoder or a post-trained checkpoint")
    parser.add_argument("--output", required=True, help="X.npy, with the records in X.csv, or X.parquet")
    arguments = parser.parse_args(argv)
    run.embed_records(
        _records(parser, arguments),
        _model(arguments),
        arguments.output,
        batch_size=arguments.batch_size,
        device=arguments.device,
        record_column=arguments.record_column,
        data_dir=arguments.data_dir,
        table=arguments.table,
        facts=_facts(arguments),
    )


def plot(argv: Sequence[str] | None = None) -> None:
    """Draw an ECG record on ECG paper, with a model's findings beside it."""
    run = _load("inference.plot")
    parser = Parser(prog="ecg-hf plot", description=plot.__doc__)
    parser.add_argument("record", help="an ECG file of any format that is read, of at most 60 s")
    parser.add_argument("--model", help="folder or Hub id of a post-trained checkpoint, whose findings are shown")
    parser.add_argument("--output", required=True, help="X.png, X.svg or X.pdf")
    add_facts(parser)
    arguments = parser.parse_args(argv)
    run.plot_record(arguments.record, arguments.output, model=arguments.model, facts=_facts(arguments))
    print(f"The picture is {arguments.output}")


def explain(argv: Sequence[str] | None = None) -> None:
    """Show which leads and times of an ECG record a model's answer comes from, on ECG paper."""
    run = _load("inference.explain")
    parser = Parser(prog="ecg-hf explain", description=explain.__doc__)
    parser.add_argument("record", help="an ECG file of any format that is read, of at most 60 s")
    parser.add_argument("--model", required=True, help="folder or Hub id of a post-trained checkpoint")
    parser.add_argument(
        "--label",
        nargs="+",
        help="labels to explain; by default those above their thresholds, else that of the highest score",
    )
    parser.add_argument("--output_dir", required=True, help="folder of the pictures RECORD-LABEL.png")
    parser.add_argument("--method", choices=run.METHODS, default=run.METHODS[0])
    parser.add_argument("--steps", type=int, help="of integrated gradients; 32 by default")
    parser.add_argument("--format", choices=run.FORMATS, default=run.FORMATS[0], help="of the pictures")
    parser.add_argument("--json", action="store_true", help="print JSON with the strongest segments")
    parser.add_argument("--device", help="cpu, cuda, cuda:1; by default a GPU where there is one")
    add_facts(parser)
    arguments = parser.parse_args(argv)
    if arguments.steps is not None and arguments.method != "integrated_gradients":
        parser.error(f"`--steps` is for integrated_gradients, not for {arguments.method}.")
    run.explain_record(
        arguments.record,
        arguments.model,
        arguments.output_dir,
        labels=arguments.label,
        method=arguments.method,
        steps=run.STEPS if arguments.steps is None else arguments.steps,
        picture_format=arguments.format,
        as_json=arguments.json,
        device=arguments.device,
        facts=_facts(arguments),
    )


def demo(argv: Sequence[str] | None = None) -> None:
    """Open a local page that shows an ECG and a model's findings, or write a Hub Space that does."""
    parser = Parser(prog="ecg-hf demo", description=demo.__doc__)
    _add_model(parser, "a post-trained checkpoint")
    parser.add_argument("--port", type=int, help="of the page on this machine; by default a free one from 7860 on")
    parser.add_argument("--export_space", help="write a Space that serves `--model`, a Hub id, to this new folder")
    parser.add_argument("--push_to_hub", help="publish that Space as `owner/name`")
    arguments = parser.parse_args(argv)
    if arguments.export_space is None and arguments.push_to_hub is not None:
        parser.error("`--push_to_hub` publishes a Space: say by `--export_space` where it is written.")
    if arguments.export_space is None:
        run = _load("demo.page")
        run.serve(run.build_page(_model(arguments)), port=arguments.port)
        return
    if arguments.port is not None:
        parser.error("`--port` is of the page on this machine, which `--export_space` does not open.")
    if arguments.model is None:
        parser.error("`--export_space` needs `--model`, the Hub id of a published checkpoint.")
    space = _load("demo.space")
    folder = space.write_space(arguments.model, arguments.export_space)
    print(f"The Space that serves {arguments.model} is in {folder}")
    if arguments.push_to_hub is not None:
        print(f"Published: {space.push_space(folder, arguments.push_to_hub).commit_url}")


def export(argv: Sequence[str] | None = None) -> dict:
    """Write a trained model as ONNX, from windows to probabilities, checked against the model."""
    run = _load("inference.export_run")
    report = run.export(*parse_arguments(argv, *export_arguments()))
    print(report["text"])
    return report


def convert(argv: Sequence[str] | None = None) -> None:
    """Convert the checkpoint of a public ECG Transformer into a folder with its model and feature extractor."""
    run = _load("conversion")
    parser = Parser(prog="ecg-hf convert", description=convert.__doc__)
    parser.add_argument("checkpoint", help="The authors' file, or a folder such as HuBERT-ECG's on the Hub.")
    parser.add_argument("--output_dir", required=True, help="A new or empty folder.")
    parser.add_argument("--source", choices=list(run.FAMILIES), help="Recognised from the file when not given.")
    parser.add_argument("--num_attention_heads", type=int, help="Where the file does not say it.")
    arguments = parser.parse_args(argv)
    folder = pathlib.Path(arguments.output_dir)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`{folder}` exists and is not empty: choose another `--output_dir`.")
    model, feature_extractor = run.convert_checkpoint(
        arguments.checkpoint, arguments.source, arguments.num_attention_heads
    )
    with whole_folder(folder) as unfinished:
        model.save_pretrained(unfinished)
        feature_extractor.save_pretrained(unfinished)
    provenance = model.config.provenance
    print(
        f"{type(model).__name__} of {provenance['source']}, {model.num_parameters():,} parameters, licence "
        f"{provenance['license']}, is in {folder}"
    )


def download_ptbxl(argv: Sequence[str] | None = None) -> None:
    """Fetch PTB-XL from PhysioNet, checked by SHA-256; re-run the same command to resume."""
    run = _load("ptbxl.download")
    parser = Parser(prog="ecg-hf download-ptbxl", description=download_ptbxl.__doc__)
    parser.add_argument("folder", help="where the files go")
    parser.add_argument("--sampling_rate", type=int, default=100, help="100 or 500 (Hz)")
    parser.add_argument("--base_url", default=run.PHYSIONET_URL, help="of a mirror")
    arguments = parser.parse_args(argv)
    folder = run.download_ptbxl(arguments.folder, arguments.sampling_rate, base_url=arguments.base_url)
    print(f"PTB-XL at {arguments.sampling_rate} Hz is in {folder}: use it as `--data_dir`.")


def prepare_ptbxl(argv: Sequence[str] | None = None) -> None:
    """Build PTB-XL as Parquet with its card, for `--dataset_name`, and push it if wanted."""
    from .cards import write_dataset_card
    from .hub import push_dataset

    run = _load("ptbxl.parquet")
    parser = Parser(prog="ecg-hf prepare-ptbxl", description=prepare_ptbxl.__doc__)
    parser.add_argument("--data_dir", required=True, help="PTB-XL folder in PhysioNet's layout, or PhysioNet's zip")
    parser.add_argument("--sampling_rate", type=int, default=100, help="100 or 500 (Hz); may be called once for each")
    parser.add_argument("--output_dir", required=True, help="where the Parquet files and the card go")
    parser.add_argument("--cache_dir", help="where `datasets` keeps the Arrow copy")
    parser.add_argument("--skip_missing_records", action="store_true", help="skip records without files")
    parser.add_argument("--push_to_hub", action="store_true", help="publish the folder as `--hub_dataset_id`")
    parser.add_argument("--hub_dataset_id", help="`owner/name` on the Hub")
    parser.add_argument("--private", action="store_true", default=None, help="make a new repository private")
    arguments = parser.parse_args(argv)
    if arguments.push_to_hub != (arguments.hub_dataset_id is not None):
        parser.error("`--push_to_hub` and `--hub_dataset_id` belong together")
    run.write_ptbxl_parquet(
        arguments.data_dir,
        arguments.sampling_rate,
        arguments.output_dir,
        cache_dir=arguments.cache_dir,
        skip_missing_records=arguments.skip_missing_records,
    )
    write_dataset_card(arguments.output_dir, arguments.hub_dataset_id)
    print(f"The Parquet files and their card, README.md, are in {arguments.output_dir}")
    if arguments.push_to_hub:
        commit = push_dataset(arguments.output_dir, arguments.hub_dataset_id, private=arguments.private)
        print(f"Published: {commit.commit_url}")


def release(argv: Sequence[str] | None = None) -> None:
    """Copy a finished run as it is published, with 16-bit weights; a push adds the code, or `--with_code`."""
    run = _load("post_training.release")
    parser = Parser(prog="ecg-hf release", description=release.__doc__)
    parser.add_argument("run", help="folder of a finished run of `pretrain` or `train`")
    parser.add_argument("--output_dir", required=True, help="a new or empty folder; its name is the card's title")
    parser.add_argument("--with_code", action="store_true", help="so that the folder loads without ecg_hf")
    records = parser.add_argument_group(
        "records",
        "With the records that a classifier was trained with, given by the flag of `ecg-hf train`, thresholds and "
        "figures are those of the 16-bit weights; without them, those of the run.",
    )
    for name in run.PLACES:
        records.add_argument(f"--{name}", help=run.PLACES[name])
    records.add_argument(
        "--evaluate_test", type=_true_or_false, help="whether to judge the test records; by default as in the run"
    )
    records.add_argument("--per_device_eval_batch_size", type=int, default=128, help="records in one batch")
    records.add_argument("--use_cpu", action="store_true", help="do not use a GPU")
    arguments = parser.parse_args(argv)
    given = {name: getattr(arguments, name) for name in run.PLACES}
    folder = run.release(
        arguments.run,
        arguments.output_dir,
        {name: value for name, value in given.items() if value is not None},
        evaluate_test=arguments.evaluate_test,
        batch_size=arguments.per_device_eval_batch_size,
        use_cpu=arguments.use_cpu,
        with_code=arguments.with_code,
    )
    print(f"{folder} holds the model in {(folder / 'model.safetensors').stat().st_size / 1e6:.1f} MB, and its card")


def _true_or_false(text: str) -> bool:
    """As `ecg-hf train` reads such flags."""
    from transformers.hf_argparser import string_to_bool

    return string_to_bool(text)


def info(argv: Sequence[str] | None = None) -> None:
    """Print versions, device and cache folders for the report of a bug; no names of users or machines."""
    Parser(prog="ecg-hf info", description=info.__doc__).parse_args(argv)
    print(_load("info").text())


COMMANDS = {
    "pretrain": pretrain,
    "train": train,
    "evaluate": evaluate,
    "release": release,
    "classify": classify,
    "embed": embed,
    "plot": plot,
    "explain": explain,
    "demo": demo,
    "export": export,
    "convert": convert,
    "download-ptbxl": download_ptbxl,
    "prepare-ptbxl": prepare_ptbxl,
    "prepare": prepare,
    "info": info,
}


_HELP = ("-h", "--help")


def _unknown_command(argv: Sequence[str]) -> str:
    """Two lines for arguments that begin with no command."""
    usage = f"usage: ecg-hf {{{','.join(COMMANDS)}}} ...   (`ecg-hf train --help` lists the flags)"
    if not argv:
        return usage
    near = difflib.get_close_matches(argv[0], COMMANDS, n=1)
    meant = f"Did you mean `{near[0]}`?" if near else "`ecg-hf --help` lists all."
    return f"ecg-hf: error: there is no command `{argv[0]}`. {meant}\n{usage}"


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first argument names; `--debug` shows tracebacks in place of lines.

    `--help` prints what is written ahead, and loads nothing; `--help-all` of a run has the flags of the library too.
    """
    with while_it_is_read():
        _main(*without_debug(sys.argv[1:] if argv is None else argv))


def _main(argv: list[str], debug: bool) -> None:
    if argv and argv[0] in _HELP:
        print(overview(COMMANDS))
        return
    if argv and argv[0] == "--version":
        print(f"ecg-hf {__version__}")
        return
    if not argv or argv[0] not in COMMANDS:
        raise SystemExit(_unknown_command(argv))
    name, *rest = argv
    if any(flag in rest for flag in _HELP):
        print(help_of(name))
        return
    if name in RUNS and "--help-all" in rest:
        print(help_of(name), end="\n\nAll flags, with those of transformers' TrainingArguments:\n\n")
        rest = ["--help"]
    run_command(COMMANDS[name], rest, debug)


if __name__ == "__main__":
    main()
