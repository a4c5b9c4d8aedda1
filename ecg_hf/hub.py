"""Publishing on the Hub: the model, its card and its metrics in a single commit."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import httpx2
import torch
from huggingface_hub import (
    CommitInfo,
    CommitOperationAdd,
    CommitOperationDelete,
    DatasetCard,
    HfApi,
    ModelCard,
    get_token,
)
from huggingface_hub.errors import (
    EntryNotFoundError,
    HfHubHTTPError,
    HFValidationError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from safetensors.torch import load_file, save_file

from .card_curves import save_curves
from .cards import (
    CARD,
    CURVE_PICTURES,
    FACTS_OF_RUNS,
    LABEL_PICTURE,
    read_fact,
    read_facts,
    write_dataset_card,
    write_model_card,
)
from .ecg_transformer.configuration_ecg_transformer import ECGTransformerConfig
from .files import json_text, share_as_usual, whole_folder
from .model_folder import check_model_folder

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# What a push publishes besides the code and the weights. Predictions are not published: they contain record ids.
PUBLISHED_FILES = (
    "config.json",
    "preprocessor_config.json",
    CARD,
    "all_results.json",
    "metrics.json",
    "recipe.yaml",
    "learning_curves.png",
    LABEL_PICTURE,
    *CURVE_PICTURES,
    "adapter/adapter_config.json",
    "adapter/adapter_model.safetensors",
)
WEIGHTS = re.compile(r"model(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
STALE_WEIGHTS = re.compile(
    r"(pytorch_)?model(-\d+-of-\d+)?\.(safetensors|bin)(\.index\.json)?|adapter/adapter_(config\.json|model\.safetensors)"
)

CODE = re.compile(r"(\w+_ecg_transformer|pipeline_ecg_classification)\.py")
CODE_FOLDER = Path(__file__).parent / "ecg_transformer"


def create_repository(
    repo_id: str, repo_type: str = "model", token: str | None = None, private: bool | None = None
) -> str:
    """Create a repository unless it exists -> its full name, `owner/name`. Errors as in `push_model`."""
    with _translate_hub_errors(repo_id, token):
        sdk = {"space_sdk": "gradio"} if repo_type == "space" else {}
        api = HfApi()
        return api.create_repo(
            repo_id, repo_type=repo_type, token=token, private=private, exist_ok=True, **sdk
        ).repo_id


def push_model(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "Post-trained ECG Transformer",
) -> CommitInfo:
    """Publish the folder of a finished run on the Hub in one atomic commit.

    Weights, configuration, code, card, figures, metrics and recipe are published; checkpoints, optimizer states and
    predictions are not. A card that is in the repository is updated; user-written text in it is kept.

    Args:
        folder: the output folder of `PostTrainer.post_train` or `PreTrainer.pretrain`.
        repo_id: `owner/name`, or `name` for the token's owner; created if it does not exist.
        token: a token with write permission; by default that of `hf auth login` or of HF_TOKEN.
        private: whether a new repository is private; by default according to the owner's settings.
        revision: branch to commit to, created if it does not exist; by default `main`.
        commit_message: first line of the commit.

    Raises:
        FileNotFoundError: the folder is not that of a finished run.
        ValueError: a name that the Hub does not allow, a repository with another type of model, or card metadata that
            the Hub does not accept, such as an unknown licence that a user wrote into it.
        PermissionError: no token, an invalid one, or a repository of another owner.
        ConnectionError: the Hub cannot be reached, or the connection was lost; nothing was published.
    """
    folder = Path(folder)
    _check_stands_alone(folder)
    repo_id = create_repository(repo_id, token=token, private=private)
    with _translate_hub_errors(repo_id, token):
        _create_branch(repo_id, "model", revision, token)
        _check_same_kind(repo_id, revision, token)
        published = _published_text(repo_id, CARD, "model", revision, token)
        card = write_model_card(folder, repo_id, published)
        _check_metadata(ModelCard(card))
        files = {**_model_files(folder), CARD: card.encode()}
        return _commit(repo_id, "model", files, revision, token, commit_message, stale=STALE_WEIGHTS)


def write_release(
    folder: str | os.PathLike,
    target: str | os.PathLike,
    changes: Mapping[str, dict] | None = None,
    curves: Mapping[str, Figure] | None = None,
    *,
    with_code: bool = False,
) -> Path:
    """Copy what a push would publish of a finished run to a new folder, with 16-bit weights.

    A push of `target` adds the code where it is not there. Models compute and train in 32 bit after loading; the
    relative rounding error of a weight is at most 2^-11. `ecg_hf.post_training.release` measures what it does.

    Args:
        folder: the output folder of a run.
        target: a new or empty folder.
        changes: what JSON files of the release hold in place of the run's, by their names.
        curves: those of the card, in place of the run's, as [`curve_figures`] gives them.
        with_code: whether the model's code goes along, so that the folder loads without this package.

    Raises:
        FileExistsError: `target` is not empty.
        FileNotFoundError: `folder` is not that of a finished run.
        ValueError: a weight exceeds the range of 16-bit floats.
    """
    folder, target = Path(folder), Path(target)
    _check_stands_alone(folder)
    if target.exists() and any(target.iterdir()):
        raise FileExistsError(f"`{target}` is not empty: choose another folder, or empty it.")
    weights = {}
    for file in sorted(file for file in folder.glob("model*.safetensors") if WEIGHTS.fullmatch(file.name)):
        weights |= load_file(file)
    halved = rounded(weights)
    for name in FACTS_OF_RUNS:  # said of `folder`, of which the card below would not know
        read_fact(folder, name)
    with whole_folder(target) as unfinished:
        if with_code:
            for name, file in _code(folder).items():
                shutil.copyfile(file, unfinished / name)
        for name in PUBLISHED_FILES:
            if (folder / name).is_file():
                (unfinished / name).parent.mkdir(exist_ok=True)
                shutil.copyfile(folder / name, unfinished / name)
        contents = {"config.json": read_facts(folder, "config.json"), **(changes or {})}
        contents["config.json"] = {**contents["config.json"], "dtype": "float32"}
        for name, content in contents.items():
            (unfinished / name).write_text(json_text(content), encoding="utf-8")
        save_curves(curves or {}, unfinished)
        save_file(halved, unfinished / "model.safetensors", metadata={"format": "pt"})
        share_as_usual(unfinished)
        write_model_card(unfinished, title=target.absolute().name)
    return target


def rounded(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights as 16-bit floats; `ValueError` for those beyond their range."""
    halved = {name: weight.half() for name, weight in weights.items()}
    if large := [name for name, weight in halved.items() if not weight.isfinite().all()]:
        raise ValueError(f"Weights beyond 65504 do not fit into 16 bit: {', '.join(large)}.")
    return halved


def _code(folder: Path) -> dict[str, Path]:
    """Name -> file of the model's code: that with which a run was saved; a released folder may have none."""
    code_folder = folder if (folder / "modeling_ecg_transformer.py").is_file() else CODE_FOLDER
    return {file.name: file for file in sorted(code_folder.iterdir()) if CODE.fullmatch(file.name)}


def _model_files(folder: Path) -> dict[str, Path]:
    """Name in the repository -> file, of everything that is published."""
    files = _code(folder)
    files |= {file.name: file for file in sorted(folder.iterdir()) if WEIGHTS.fullmatch(file.name)}
    return files | {name: folder / name for name in PUBLISHED_FILES if (folder / name).is_file()}


def _check_stands_alone(folder: Path) -> None:
    config = read_facts(folder, "config.json")
    check_model_folder(folder)
    if "auto_map" not in config:
        raise ValueError(
            f"`{folder}/config.json` has no `auto_map`, by which the Hub finds the model's code: load the model and "
            "write it again by `save_pretrained`."
        )
    files = _model_files(folder)
    needed = {"preprocessor_config.json", *(f"{name.split('.')[0]}.py" for name in config["auto_map"].values())}
    if missing := sorted(needed - files.keys()):
        raise FileNotFoundError(f"`{folder}` lacks {', '.join(missing)}: without it the model cannot be loaded.")
    if not any(name.endswith(".safetensors") for name in files):
        raise FileNotFoundError(f"`{folder}` has no weights (`model.safetensors`).")


def _check_same_kind(repo_id: str, revision: str | None, token: str | None) -> None:
    published = _published_text(repo_id, "config.json", "model", revision, token)
    kind = json.loads(published).get("model_type") if published else None
    if kind not in (None, ECGTransformerConfig.model_type):
        raise ValueError(
            f"`{repo_id}` contains a model of the type `{kind}`: push the ECG Transformer under another name."
        )


def push_dataset(
    folder: str | os.PathLike,
    repo_id: str,
    *,
    token: str | None = None,
    private: bool | None = None,
    revision: str | None = None,
    commit_message: str = "PTB-XL as Parquet",
) -> CommitInfo:
    """Publish a folder of `write_ptbxl_parquet` in one commit; arguments and errors as in `push_model`."""
    folder = Path(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.glob("data/**/*.parquet"))}
    if not files:
        raise FileNotFoundError(
            f"`{folder}` has no Parquet files: create them with `training/prepare_ptbxl.py` first."
        )
    repo_id = create_repository(repo_id, "dataset", token, private)
    with _translate_hub_errors(repo_id, token):
        _create_branch(repo_id, "dataset", revision, token)
        published = _published_text(repo_id, CARD, "dataset", revision, token)
        card = write_dataset_card(folder, repo_id, published)
        _check_metadata(DatasetCard(card))
        return _commit(repo_id, "dataset", {**files, CARD: card.encode()}, revision, token, commit_message)


def push_space_folder(folder: str | os.PathLike, repo_id: str, *, token: str | None = None) -> CommitInfo:
    """Publish a folder as a Gradio Space in one commit; arguments and errors as in `push_model`."""
    folder = Path(folder)
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    repo_id = create_repository(repo_id, "space", token)
    with _translate_hub_errors(repo_id, token):
        return _commit(repo_id, "space", files, None, token, "A page that serves a model")


def _check_metadata(card: ModelCard | DatasetCard) -> None:
    try:
        card.validate()
    except ValueError as error:
        raise ValueError(f"The Hub does not accept the metadata of the card; correct them: {error}") from error


def _create_branch(repo_id: str, repo_type: str, revision: str | None, token: str | None) -> None:
    if revision is not None:
        HfApi().create_branch(repo_id, branch=revision, repo_type=repo_type, token=token, exist_ok=True)


def _published_text(repo_id: str, name: str, repo_type: str, revision: str | None, token: str | None) -> str | None:
    try:
        path = HfApi().hf_hub_download(repo_id, name, repo_type=repo_type, revision=revision, token=token)
    except EntryNotFoundError:
        return None
    return Path(path).read_text(encoding="utf-8")


def _commit(
    repo_id: str,
    repo_type: str,
    files: Mapping[str, Path | bytes],
    revision: str | None,
    token: str | None,
    message: str,
    stale: re.Pattern | None = None,
) -> CommitInfo:
    """A single commit, so that readers never see a partial state; it deletes other files that match `stale`."""
    api = HfApi()
    operations: list[CommitOperationAdd | CommitOperationDelete] = [
        CommitOperationAdd(name, content) for name, content in files.items()
    ]
    if stale is not None:
        published = api.list_repo_files(repo_id, repo_type=repo_type, revision=revision, token=token)
        operations += [
            CommitOperationDelete(name) for name in published if stale.fullmatch(name) and name not in files
        ]
    return api.create_commit(
        repo_id, operations, commit_message=message, repo_type=repo_type, revision=revision, token=token
    )


@contextlib.contextmanager
def _translate_hub_errors(repo_id: str, token: str | None) -> Iterator[None]:
    """Translate the Hub's errors into messages that say what to do."""
    page = f"{HfApi().endpoint}/settings/tokens"
    try:
        yield
    except HFValidationError as error:
        raise ValueError(
            f"`{repo_id}` cannot be a name on the Hub: give `owner/name`, or `name` for your own account, with only "
            "letters, digits, `-`, `_` and `.`."
        ) from error
    except OfflineModeIsEnabled as error:
        raise ConnectionError(
            f"Nothing can be pushed to `{repo_id}` while HF_HUB_OFFLINE is set: unset it."
        ) from error
    except HfHubHTTPError as error:
        status = error.response.status_code
        if status in (401, 403, 404) and (token or get_token()) is None:
            raise PermissionError(
                f"There is no token to push to `{repo_id}`: run `hf auth login`, or set HF_TOKEN to a token with "
                f"write permission from {page}."
            ) from error
        if status == 401 and not isinstance(error, RepositoryNotFoundError):
            raise PermissionError(
                f"The Hub does not accept the token: it is invalid or was revoked. Create one with write permission "
                f"at {page}, then run `hf auth login` or set HF_TOKEN."
            ) from error
        if status in (401, 403, 404) and not isinstance(error, RevisionNotFoundError):
            raise PermissionError(
                f"Your token may not write to `{repo_id}`: it belongs to another owner, or the token has no "
                f"write permission. Choose a name under your own account, or create another token at {page}."
            ) from error
        raise ConnectionError(f"The Hub refused the push to `{repo_id}`; nothing was published: {error}") from error
    except (httpx2.TransportError, RuntimeError) as error:
        # The library wraps errors during an upload in a RuntimeError.
        if isinstance(error, RuntimeError) and not isinstance(error.__cause__, (httpx2.HTTPError, OSError)):
            raise
        raise ConnectionError(
            f"The connection to the Hub was lost while pushing to `{repo_id}` ({error.__cause__ or error}); nothing "
            "was published. Push again: files that were uploaded are not sent twice."
        ) from error


__all__ = [
    "create_repository",
    "push_dataset",
    "push_model",
    "push_space_folder",
    "rounded",
    "write_release",
]
