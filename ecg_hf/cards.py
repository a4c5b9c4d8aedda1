"""Model cards and data set cards.

A card is generated from the files of a finished run only (`config.json`, `preprocessor_config.json`, `metrics.json`,
`recipe.yaml`, `all_results.json`), so that it can be regenerated at any time. Its generated sections are enclosed in
marks; text that users write outside of them survives every later push.
"""

from __future__ import annotations

import functools
import importlib.metadata
import logging
import math
import os
import platform
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import datasets
import jinja2
import yaml
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index
from safetensors import safe_open

from .card_curves import CURVE_PICTURES, draw_curves
from .card_stages import STAGE_TITLES, drops_paths, own_settings, stage_recipes
from .card_targets import card_target, target_facts
from .card_text import (
    dump_metadata,
    folds_in_words,
    has_sections,
    paragraphs,
    split_metadata,
    texts_after_sections,
    update_card,
)
from .files import read_object, read_text, write_atomic
from .plotting import plot_label_metrics
from .ptbxl.parquet import describe_parquet
from .ptbxl.table import FOLDS
from .seen_data import PTBXL_TRAINING, UNKNOWN_FOLD, UNNAMED_RECORDS, joined, judged, reports_in_words, saw
from .version import __version__

logger = logging.getLogger(__name__)

TEMPLATES = Path(__file__).parent / "templates"
CARD = "README.md"
LABEL_PICTURE = "label_metrics.png"
ENCODER_CLASS = "ECGTransformerModel"
FACTS_OF_RUNS = ("config.json", "preprocessor_config.json", "metrics.json", "all_results.json", "recipe.yaml")
"""Files of a finished run, from which a card is written."""

HUB_LICENSES = ("apache-2.0", "mit", "cc-by-4.0", "cc-by-sa-4.0", "cc-by-nc-4.0", "cc-by-nc-sa-4.0", "cc0-1.0")
CODE_LICENSE = "apache-2.0"

MEASURED = "measured_weights"
"""Entry of `metrics.json`: the kind of numbers of the weights that its figures are of, where these were rounded."""

TABLES = ("table", "validation_table", "test_table")
"""Fields of a recipe that name tables of own records."""

DATA_NAMES = {"ptbxl": "PTB-XL"}
SIMULATED_DEVICE = "simulated"

STAGES = ("pretrain", *STAGE_TITLES)
"""As `all_results.json` has their seconds."""

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "huggingface_hub", "safetensors", "numpy")


# ---- Facts of a run ----


def package_versions() -> dict[str, str]:
    """Versions of Python and of the packages that affect a model's results."""
    versions = {name: importlib.metadata.version(name) for name in PACKAGES}
    return {"ecg_hf": __version__, "python": platform.python_version(), **versions}


def describe_data(splits: Mapping[str, datasets.Dataset]) -> dict[str, Any]:
    """`name`, `license`, `citation`, `homepage`, `simulated`, and of each split `num_records` and `ptbxl_folds`: for
    `metrics.json`."""
    first = next(iter(splits.values()))
    simulated = "device" in first.column_names and _values(first, "device") == {SIMULATED_DEVICE}
    name = first.info.dataset_name or UNNAMED_RECORDS
    return {
        "name": "simulated ECGs" if simulated else DATA_NAMES.get(name, name),
        "simulated": simulated,
        "license": None if simulated else first.info.license or None,
        "citation": None if simulated else first.info.citation or None,
        "homepage": None if simulated else first.info.homepage or None,
        "num_records": {split: len(dataset) for split, dataset in splits.items()},
        "ptbxl_folds": {split: folds_of(dataset) for split, dataset in splits.items()},
    }


def folds_of(dataset: datasets.Dataset) -> list[int | str]:
    """The folds of PTB-XL that the records of a data set are of, as far as it tells."""
    if dataset.info.dataset_name not in DATA_NAMES or "strat_fold" not in dataset.column_names:
        return [UNKNOWN_FOLD]
    return sorted(_values(dataset, "strat_fold"))


def _values(dataset: datasets.Dataset, column: str) -> set:
    return set(dataset.with_format("arrow")[column].unique().to_pylist())


# ---- Model card ----


def write_model_card(
    folder: str | os.PathLike, repo_id: str | None = None, published: str | None = None, title: str | None = None
) -> str:
    """Write `README.md` into the folder of a finished run -> the card's text.

    The card of a classifier comes with figures of the metrics of each label, of reliability and of precision and
    recall, the last two where the run has predictions of its test records; those of a regression and of a pre-trained
    encoder show their learning curves alone.

    An existing card is updated: its generated sections are replaced and user-written text is kept. Once a card is
    published, it takes precedence: text that is only in the folder's card stays there, with a warning, and is not part
    of the returned text.

    Args:
        folder: the output folder of `PostTrainer.post_train` or `PreTrainer.pretrain`: weights, `config.json`,
            `metrics.json`, `recipe.yaml`, ...
        repo_id: the name on the Hub, for the usage examples.
        published: the card that is in the repository.
        title: of an encoder that has no name on the Hub; by default the folder's name.

    Raises:
        FileNotFoundError: the folder is not that of a finished run.
        ValueError: marks or metadata of a card are damaged, or a file is not UTF-8; no card is written.
    """
    folder = Path(folder)
    if read_facts(folder, "config.json").get("architectures") == [ENCODER_CLASS]:
        facts = _encoder_facts(folder, repo_id, title)
        card = _render("encoder_card.md", _encoder_metadata(facts), facts)
        return _write_card(folder / CARD, card, published)
    facts = _model_facts(folder, repo_id)
    if not facts["is_regression"]:
        plot_label_metrics(facts["split_metrics"]["per_label"], folder / LABEL_PICTURE, facts["split"])
        facts["curves"] = draw_curves(folder, facts["split"], facts["labels"])
    return _write_card(folder / CARD, _render("model_card.md", _model_metadata(facts), facts), published)


def _facts(folder: Path, repo_id: str | None) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
    """The variables that both templates use, the content of `metrics.json` and that of `all_results.json`."""
    *objects, recipe = FACTS_OF_RUNS
    config, extractor, metrics, results = (read_facts(folder, name) for name in objects)
    recipe = yaml.safe_load(read_fact(folder, recipe))
    provenance = config.get("provenance") or {}
    base = provenance.get("base") or recipe.get("model_name_or_path") or provenance.get("source")
    facts = {
        "repo_id": repo_id,
        # A push adds the code that a released folder lacks.
        "has_code": repo_id is not None or (folder / "modeling_ecg_transformer.py").is_file(),
        "config": config,
        **_weights(folder),
        "steps": preprocessing_in_words(extractor),
        "window_seconds": config["num_samples"] / config["sampling_rate"],
        "data": metrics["data"],
        "architecture": recipe.get("architecture", "own configuration"),
        "base": base,
        "base_id": _hub_id(base),
        "base_source": provenance.get("source"),
        "base_license": provenance.get("license"),
        "pretraining_data": joined(provenance.get("pretraining_data")),
        "pretraining_reports": reports_in_words(provenance.get("pretraining_reports")),
        "license": _license(provenance.get("license")) if base or provenance.get("license") else CODE_LICENSE,
        "provenance": provenance,
        "test_folds": sorted({9, 10} & set(provenance.get("ptbxl_folds") or ())),
        "recipe": recipe,
        "world_size": results["world_size"],
        "seconds_in_words": _duration(results),
        "versions": metrics["versions"],
    }
    return facts, metrics, results


def _duration(results: Mapping[str, Any]) -> str:
    """Of all stages of a run."""
    seconds = sum(value for name, value in results.items() if name.removesuffix("_seconds") in STAGES)
    return f"{seconds / 3600:.1f} hours" if seconds >= 3600 else f"{max(seconds / 60, 0.1):.1f} minutes"


def _encoder_facts(folder: Path, repo_id: str | None, title: str | None) -> dict[str, Any]:
    facts, metrics, results = _facts(folder, repo_id)
    return {
        **facts,
        "model_name": repo_id.split("/")[-1] if repo_id else title or folder.absolute().name,
        "results": results,
        "settings": own_settings(facts["recipe"], "crop_seconds", "crops_per_record"),
        "command": _pretraining_command(facts, repo_id, results["world_size"], "probe" in metrics),
        "probe": metrics.get("probe"),
        "saw_ptbxl": saw(facts["provenance"], {"name": "PTB-XL"}),
        "seen_folds": _seen_folds(facts),
    }


def _model_facts(folder: Path, repo_id: str | None) -> dict[str, Any]:
    """The variables of the template of a classifier."""
    facts, metrics, results = _facts(folder, repo_id)
    config, recipe = facts["config"], facts["recipe"]
    splits = {name: metrics[name] for name in ("validation", "test") if name in metrics}
    split = list(splits)[-1]
    labels = [config["id2label"][str(index)] for index in range(len(config["id2label"]))]
    has_depth = drops_paths(recipe, config)
    stages = stage_recipes(recipe, results, metrics.get("stages", {}), has_depth)
    return {
        **facts,
        "model_name": repo_id.split("/")[-1] if repo_id else _model_name(facts, labels),
        "labels": labels,
        "label_names": config.get("label_names") or {},
        **target_facts(config, labels, splits[split]["per_label"]),
        "dataset_id": _hub_id(recipe.get("dataset_name")),
        "task": recipe.get("task"),
        "splits": splits,
        "split": split,
        "split_metrics": splits[split],
        "saw_evaluation_data": saw(facts["provenance"], metrics["data"]),
        "judged_folds": judged(metrics["data"]) & set(facts["provenance"].get("ptbxl_folds") or ()) - {UNKNOWN_FOLD},
        "stages": stages,
        "has_depth": has_depth,
        "takes_best": recipe.get("load_best_model_at_end", True) or recipe["stages"] == ["probe"],
        "kept_stage": {stage["name"]: stage["title"] for stage in stages}.get(metrics.get("kept_stage")),
        "is_measured_as_stored": metrics.get(MEASURED) == "float16",
        "command": _command(facts, repo_id, results["world_size"]),
        "pictures": [name for name in ("learning_curves.png",) if (folder / name).is_file()],
    }


def read_fact(folder: Path, name: str) -> str:
    try:
        return read_text(folder / name)
    except FileNotFoundError as error:
        raise FileNotFoundError(
            f"`{folder}` lacks `{name}`: it is not the folder of a finished run. Complete `ecg-hf train` or "
            "`ecg-hf pretrain` first."
        ) from error


def read_facts(folder: Path, name: str) -> dict[str, Any]:
    """The object in a file of JSON of a finished run."""
    read_fact(folder, name)  # says what a folder is that lacks it
    return read_object(folder / name)


def _weights(folder: Path) -> dict[str, Any]:
    """`num_parameters`, and the `bits` with which each is stored."""
    count, kinds = 0, set()
    for file in sorted(folder.glob("model*.safetensors")):
        with safe_open(file, "pt") as weights:
            for name in weights.keys():
                part = weights.get_slice(name)
                count += math.prod(part.get_shape())
                kinds.add(part.get_dtype())
    return {"num_parameters": count, "bits": 16 if kinds <= {"F16", "BF16"} else 32}


def _model_name(facts: dict[str, Any], labels: list[str]) -> str:
    recipe = facts["recipe"]
    base = facts["base"] or recipe.get("architecture") or "ecg_transformer"
    return f"{Path(base).name}-{recipe.get('task') or f'{len(labels)}-labels'}"


def _hub_id(name: str | None) -> str | None:
    """`name` if it has the form of a repository id, `owner/name`."""
    return name if name and re.fullmatch(r"[\w.-]+/[\w.-]+", name) else None


def license_of(provenance: Mapping[str, Any] | None) -> str:
    """The Hub's identifier of the licence of a checkpoint, by the `provenance` of its configuration."""
    given = (provenance or {}).get("license")
    return _license(given) if given or (provenance or {}).get("base") else CODE_LICENSE


def _license(name: str | None) -> str:
    """The Hub's identifier of a licence."""
    identifier = re.sub(r"[\s_]+", "-", (name or "").strip().lower())
    return identifier if identifier in HUB_LICENSES else "other"


def _seen_folds(facts: Mapping[str, Any]) -> str | None:
    """The folds of PTB-XL that an encoder saw, in words; runs that did not record them had the official ones."""
    default = FOLDS["train"] if facts["data"]["name"] == "PTB-XL" else ()
    folds = [fold for fold in facts["provenance"].get("ptbxl_folds", default) if fold != UNKNOWN_FOLD]
    return folds_in_words(folds) if folds else None


def preprocessing_in_words(extractor: Mapping[str, Any]) -> list[str]:
    """One sentence for each step of a `preprocessor_config.json`, with its parameters."""
    steps = extractor["steps"]
    low, high = extractor.get("bandpass") or (None, None)
    leads_together = extractor.get("zscore_per_lead") is False

    def scope(step: str) -> str:
        return "window" if step in steps and steps.index("windows") < steps.index(step) else "record"

    sentences = {
        "leads": f"The leads {', '.join(extractor['lead_names'])} are selected by name, in any input order.",
        "resample": f"Resampling to {extractor['sampling_rate'] * extractor.get('decimation', 1):g} Hz.",
        "bandpass": f"Zero-phase filtering: {_band(low, high)}." if extractor.get("bandpass") else None,
        "windows": _windows(extractor),
        "normalize": f"(x - mean) / standard deviation, {_normalisation(extractor)}.",
        "zscore": (
            f"Z-score: (x - mean) / standard deviation of the {scope('zscore')}, "
            f"{'over all leads jointly' if leads_together else 'lead by lead'}."
        ),
        "minmax": f"Min-max scaling of each lead of the {scope('minmax')} to [-1, 1].",
        "decimate": f"Low-pass filter and decimation by {extractor.get('decimation', 1)}, on the concatenated leads.",
    }
    return [sentences[step] for step in steps if sentences[step] is not None]


def _windows(extractor: Mapping[str, Any]) -> str:
    rate, num_samples = extractor["sampling_rate"], extractor["num_samples"]
    length = f"{num_samples / rate:g} s ({num_samples} samples)"
    padding = "shorter records are zero-padded at the end."
    if count := extractor.get("num_windows"):
        return f"{count} windows of {length}, evenly spaced over the record; {padding}"
    stride = (extractor.get("window_stride") or num_samples) / rate
    last = ", the last one aligned with the end of the record" if extractor.get("cover_end", True) else ""
    return f"Windows of {length}, one every {stride:g} s{last}; {padding}"


def _band(low: float | None, high: float | None) -> str:
    edges = [f"above {low:g} Hz"] if low is not None else []
    edges += [f"below {high:g} Hz"] if high is not None else []
    return " and ".join(edges)


def _normalisation(extractor: Mapping[str, Any]) -> str:
    mean, std = (value if isinstance(value, list) else [value] for value in (extractor["mean"], extractor["std"]))
    words = (
        f"of the training records in mV ({_span(mean, 'mean')}, {_span(std, 'standard deviation')} "
        f"{'over the leads' if len(std) > 1 else 'for all leads'})"
    )
    return words if extractor.get("clip") is None else f"{words}, then clipped to ±{extractor['clip']:g}"


def _span(values: list[float], name: str) -> str:
    low, high = f"{min(values):.4f}", f"{max(values):.4f}"
    return f"{name} {low}" if low == high else f"{name} {low} to {high}"


def _command(facts: dict[str, Any], repo_id: str | None, world_size: int) -> str | None:
    """The command that reproduces the run; None for a run that was started from Python."""
    recipe = facts["recipe"]
    tables = [name for name in TABLES if name in recipe]
    if tables:
        data = "".join(f" --{name} path/to/{recipe[name]}" for name in tables)
    elif recipe.get("demo") or _hub_id(recipe.get("dataset_name")):
        data = ""
    elif "dataset_name" in recipe:
        data = f" --dataset_name path/to/{recipe['dataset_name']}"
    elif recipe.get("streaming"):
        data = " --data_dir path/to/shards"
    elif "task" in recipe:
        data = " --data_dir path/to/ptb-xl"
    elif "train_fraction" in recipe:
        data = " --data_dir path/to/records"
    else:
        return None
    return f"{_program('train', repo_id, world_size)}{_own_files(recipe)}{data} --output_dir run"


def _pretraining_command(facts: dict[str, Any], repo_id: str | None, world_size: int, probe: bool) -> str | None:
    """As `_command`, of an encoder."""
    recipe, data = facts["recipe"], facts["data"]
    if not recipe.keys() & {"sampling_rate", "allow_test_folds"}:
        return None
    is_ptbxl = not recipe.get("streaming") and (data["simulated"] or data["name"] == "PTB-XL")
    if recipe.get("streaming"):
        records = " --data_dir path/to/shards"
    elif recipe.get("table") or recipe.get("record_column"):
        records = f" --table path/to/{recipe.get('table') or 'table.csv'}"
    else:
        records = f" --data_dir path/to/{'ptb-xl' if is_ptbxl else 'records'}"
    if probe and not is_ptbxl:
        records += " --probe_data_dir path/to/ptb-xl"
    return f"{_program('pretrain', repo_id, world_size)}{_own_files(recipe)}{records} --output_dir run"


def _own_files(recipe: Mapping[str, Any]) -> str:
    """Flags of the base and the teachers, of which a recipe has the names only: the reader's own paths replace them.

    A base on the Hub is named in full.
    """
    base = recipe.get("model_name_or_path")
    flags = "" if base is None or _hub_id(base) else f" --model_name_or_path path/to/{base}"
    teachers = [f"path/to/{name}" for name in recipe.get("teacher_predictions", ())]
    return " ".join([flags, "--teacher_predictions", *teachers]) if teachers else flags


def _program(command: str, repo_id: str | None, world_size: int) -> str:
    """The call of `ecg-hf train` or `pretrain` with the repository's recipe and the same number of processes."""
    program = "ecg-hf" if world_size == 1 else f"torchrun --nproc_per_node {world_size} -m ecg_hf.cli"
    config = f"$(hf download --quiet {repo_id} recipe.yaml)" if repo_id else "recipe.yaml"
    return f"{program} {command} --config {config}"


def _shared_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    """The YAML metadata at the top of the card; see https://huggingface.co/docs/hub/model-cards."""
    metadata = {"library_name": "transformers", "license": facts["license"]}
    if facts["license"] == "other":
        metadata["license_name"] = (facts["base_license"] or "unknown").lower().replace(" ", "-")
    if facts["base_id"]:
        metadata["base_model"] = facts["base_id"]
    return metadata


def _dataset_name(data: dict[str, Any]) -> str | None:
    """An id on the Hub. PTB-XL is at PhysioNet, and own records have no name there."""
    return _hub_id(data["name"])


def _dataset_type(data: dict[str, Any]) -> str:
    """What stands where results need some name of their data."""
    if data["simulated"]:
        return "simulated"
    return "ptb-xl" if data["name"] == "PTB-XL" else "own-records"


def _encoder_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    metadata = {
        **_shared_metadata(facts),
        "pipeline_tag": "feature-extraction",
        "tags": ["ecg", "electrocardiogram", "pre-training", "ecg_transformer"],
    }
    if name := _dataset_name(facts["data"]):
        metadata["datasets"] = [name]
    return metadata


def _model_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    data, target = facts["data"], card_target(facts["config"])
    dataset_id = facts["dataset_id"] or _dataset_name(data)
    metadata = {
        **_shared_metadata(facts),
        "pipeline_tag": "other",
        "tags": ["ecg", "electrocardiogram", *target.tags, "ecg_transformer"],
        "metrics": [metric.hub_name for metric in target.metrics.values()],
    }
    if dataset_id:
        metadata["datasets"] = [dataset_id]
    results = [
        EvalResult(
            task_type=target.task_type,
            task_name=target.task_name,
            dataset_type=dataset_id or _dataset_type(data),
            dataset_name=data["name"],
            dataset_config=facts["task"],
            dataset_split=split,
            metric_type=metric.hub_name,
            metric_name=", ".join(
                [metric.title, *_interval_in_words(interval, metric.digits), f"{values['num_records']} records"]
            ),
            metric_value=float(format(interval["value"], metric.digits)),
        )
        for split, values in facts["splits"].items()
        for metric, interval in ((metric, values["intervals"][name]) for name, metric in target.metrics.items())
        if interval["value"] is not None
    ]
    metadata["model-index"] = eval_results_to_model_index(facts["model_name"], results)
    return metadata


# ---- Data set card ----


def write_dataset_card(folder: str | os.PathLike, repo_id: str | None = None, published: str | None = None) -> str:
    """Write `README.md` into a folder of `write_ptbxl_parquet`: its configurations, columns, labels, licence.

    Arguments and the handling of an existing card are as in `write_model_card`.
    """
    folder = Path(folder)
    facts = {"repo_id": repo_id or "path/to/this/folder", **describe_parquet(folder)}
    return _write_card(folder / CARD, _render("dataset_card.md", _dataset_metadata(facts), facts), published)


def _dataset_metadata(facts: dict[str, Any]) -> dict[str, Any]:
    return {
        "pretty_name": facts["data"]["name"],
        "license": _license(facts["data"]["license"]) if facts["data"]["license"] else "other",
        "size_categories": [_size_category(max(facts["num_records"].values()))],
        "task_categories": ["other"],
        "tags": ["ecg", "electrocardiogram", "12-lead", "multi-label-classification"],
        "configs": facts["configs"],
    }


def _size_category(count: int) -> str:
    for limit, name in ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K")):
        if count < limit:
            return name
    return "100K<n<1M"


# ---- Rendering and merging ----


def _render(template: str, metadata: dict[str, Any], facts: Mapping[str, Any]) -> str:
    # Conditions that do not hold leave their blank lines.
    text = re.sub(r"\n{3,}", "\n\n", _environment().get_template(template).render(facts))
    return f"---\n{dump_metadata(metadata)}---\n{text.rstrip()}\n"


@functools.cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(cell=_cell, figure=_figure, interval=_interval, number=_number)
    return environment


def _cell(value: Any) -> str:
    """Text escaped for a table cell."""
    return str(value).replace("|", "\\|").replace("\n", " ")


def _number(value: float | None, digits: str = ".3f") -> str:
    return "undefined" if value is None else format(value, digits)


def _figure(value: float | None, limits: Iterable[float] | None, digits: str = ".3f") -> str:
    """A value with its interval, where there is one."""
    if value is None or limits is None:
        return _number(value, digits)
    low, high = limits
    return f"{value:{digits}} [{low:{digits}}, {high:{digits}}]"


def _interval(values: Mapping[str, float], digits: str = ".3f") -> str:
    return _figure(values["value"], None if values["low"] is None else (values["low"], values["high"]), digits)


def _interval_in_words(values: Mapping[str, float], digits: str) -> list[str]:
    return [] if values["low"] is None else [f"95 % interval {values['low']:{digits}} to {values['high']:{digits}}"]


def _write_card(path: Path, new: str, published: str | None) -> str:
    """Update the card at `path` -> the text to publish, without user text that `published` lacks."""
    own = read_text(path) if path.is_file() else ""
    has_sections(own, f"The card `{path}`")
    if published and has_sections(published, "The published card `README.md`"):
        text = update_card(new, published)
    else:
        text = update_card(new, *filter(None, (published, own)))
    own_body = split_metadata(own)[1]
    public = set(paragraphs(text))
    if any(part not in public for _, own_text in texts_after_sections(own_body) for part in paragraphs(own_text)):
        logger.warning(
            "`%s` has text that the published card lacks. It is kept in the folder but not published: once there is a "
            "card on the Hub, write into that one.",
            path,
        )
    write_atomic(path, update_card(text, text, own_body))
    return text


__all__ = [
    "CARD",
    "CODE_LICENSE",
    "CURVE_PICTURES",
    "FACTS_OF_RUNS",
    "LABEL_PICTURE",
    "PTBXL_TRAINING",
    "SIMULATED_DEVICE",
    "TEMPLATES",
    "UNKNOWN_FOLD",
    "folds_of",
    "describe_data",
    "folds_in_words",
    "license_of",
    "package_versions",
    "preprocessing_in_words",
    "read_fact",
    "read_facts",
    "update_card",
    "write_dataset_card",
    "write_model_card",
]
