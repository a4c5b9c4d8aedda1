"""`ecg-hf demo --export_space`: a Hub Space that serves a published checkpoint by the same page."""

from __future__ import annotations

import importlib.metadata
import os
import re
import shutil
from pathlib import Path

import jinja2
import yaml
from huggingface_hub import CommitInfo
from packaging.requirements import Requirement
from transformers import AutoConfig

from ..cards import CARD, TEMPLATES, license_of
from ..ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from ..files import whole_folder
from ..hub import push_space_folder
from ..version import __version__

SDK_VERSION = "6.31.0"
"""Of Gradio, with which the page was tested; the lower end of the extra `demo`."""
PYTHON_VERSION = "3.11"
PACKAGE = Path(__file__).parents[1]
EXTRAS = ("", "readers")
"""A Space brings Gradio itself, by the `sdk_version` of its card."""
_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")


def write_space(model: str, folder: str | os.PathLike) -> Path:
    """Write the files of a Space -> its folder: `app.py`, `requirements.txt`, `README.md` and this package.

    Args:
        model: Hub id of a published classifier or regression, which is looked up.
        folder: a new or empty one.

    Raises:
        FileExistsError: `folder` is not empty.
        ValueError: `model` is a folder or no Hub id, or is no ECG Transformer with a head.
        OSError: there is no such model on the Hub, or no connection.
    """
    folder = Path(folder)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`{folder}` exists and is not empty: choose another `--export_space`.")
    config = _published_config(model)
    facts = {"model": model, "title": f"ECG findings: {model.split('/')[1]}", "version": __version__}
    with whole_folder(folder) as unfinished:
        shutil.copytree(PACKAGE, unfinished / "ecg_hf", ignore=shutil.ignore_patterns("__pycache__", "checkpoints"))
        (unfinished / "app.py").write_text(_rendered("space_app.py.jinja", facts), encoding="utf-8")
        (unfinished / "requirements.txt").write_text("".join(f"{line}\n" for line in requirements()), encoding="utf-8")
        card = f"---\n{yaml.safe_dump(_metadata(facts, config), sort_keys=False)}---\n"
        (unfinished / CARD).write_text(card + _rendered("space_card.md", facts), encoding="utf-8")
    return folder


def push_space(folder: str | os.PathLike, repo_id: str, token: str | None = None) -> CommitInfo:
    """Publish a folder of `write_space` in one commit; arguments and errors as in `push_model`."""
    return push_space_folder(folder, repo_id, token=token)


def requirements() -> list[str]:
    """What the package needs, as it is installed here, with its file formats and without Gradio.

    Raises `ModuleNotFoundError` where the package is only a folder on the path.
    """
    try:
        lines = importlib.metadata.requires("ecg-hf")
    except importlib.metadata.PackageNotFoundError as error:
        raise ModuleNotFoundError(
            "ecg-hf is not installed here, so that its needs are unknown: pip install ."
        ) from error
    wanted = [Requirement(line) for line in lines]
    chosen = [
        need for need in wanted if need.marker is None or any(need.marker.evaluate({"extra": x}) for x in EXTRAS)
    ]
    return [f"{need.name}{need.specifier}" for need in chosen]


def _published_config(model: str) -> ECGTransformerConfig:
    if os.path.isdir(model) or not _HUB_ID.fullmatch(model):
        raise ValueError(
            f"A Space serves a published checkpoint, `owner/name` on the Hub; got `{model}`. Publish it first: "
            "`ecg-hf train --push_to_hub true`, or `ecg_hf.push_model`."
        )
    config = AutoConfig.from_pretrained(model)
    if not isinstance(config, ECGTransformerConfig) or "ECGTransformerForMultiLabel" not in config.architectures:
        raise ValueError(f"`{model}` is no ECG Transformer with a trained head: a Space shows findings.")
    return config


def _metadata(facts: dict, config: ECGTransformerConfig) -> dict:
    """Of https://huggingface.co/docs/hub/spaces-config-reference."""
    return {
        "title": facts["title"],
        "emoji": "🫀",
        "colorFrom": "red",
        "colorTo": "gray",
        "sdk": "gradio",
        "sdk_version": SDK_VERSION,
        "python_version": PYTHON_VERSION,
        "app_file": "app.py",
        "license": license_of(config.provenance),
        "models": [facts["model"]],
        "tags": ["ecg", "electrocardiogram", "ecg-classification"],
        "short_description": "Findings of a model in an ECG, for research",
    }


def _rendered(template: str, facts: dict) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), undefined=jinja2.StrictUndefined, keep_trailing_newline=True
    )
    return environment.get_template(template).render(facts)


__all__ = ["push_space", "requirements", "write_space"]
