"""What the commands say of a checkpoint that is damaged, incomplete or of another kind: the same line from each."""

import json
import pathlib
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import small_extractor, small_model
from test_command import error_of

from ecg_hf import cli


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> pathlib.Path:
    folder = tmp_path_factory.mktemp("models") / "whole"
    small_model().save_pretrained(folder)
    small_extractor().save_pretrained(folder)
    return folder


def cut(file: pathlib.Path, size: int) -> None:
    file.write_bytes(file.read_bytes()[:size])


def changed(file: pathlib.Path, **fields) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | fields))


def widened(file: pathlib.Path) -> None:
    weights = load_file(file)
    save_file({name: torch.cat([weight, weight]) for name, weight in weights.items()}, file, {"format": "pt"})


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"
WHERE = "give the folder of a checkpoint of `ecg-hf train`, `pretrain` or `convert`"

CONFIG, EXTRACTOR, WEIGHTS = "config.json", "preprocessor_config.json", "model.safetensors"

DAMAGES = {
    "cut weights": (WEIGHTS, lambda file: cut(file, -9), "is no whole safetensors file .*: download it again"),
    "empty weights": (WEIGHTS, lambda file: cut(file, 0), "is no whole safetensors file"),
    "pointer": (WEIGHTS, lambda file: file.write_text(POINTER), "a pointer of git-lfs.*run `git lfs pull`"),
    "no weights": (WEIGHTS, pathlib.Path.unlink, f"lacks model.safetensors, .*: {WHERE}"),
    "other weights": (WEIGHTS, widened, "do not fit"),
    "no config": (CONFIG, pathlib.Path.unlink, f"lacks config.json, .*: {WHERE}"),
    "empty config": (CONFIG, lambda file: file.write_text("{}"), "`model_type` None, expected 'ecg_transformer'"),
    "a list": (CONFIG, lambda file: file.write_text("[]"), r"config.json` holds '\[\]', expected a JSON object"),
    "cut config": (CONFIG, lambda file: cut(file, 100), "config.json` is not whole JSON"),
    "bert": (CONFIG, lambda file: changed(file, model_type="bert"), "is no ECG Transformer: .*'bert'"),
    "unknown": (CONFIG, lambda file: changed(file, model_type="mine"), "is no ECG Transformer: .*'mine'"),
    "a text": (CONFIG, lambda file: changed(file, hidden_size="16"), r"cannot be used \(.*'hidden_size' expected int"),
    "no names": (CONFIG, lambda file: changed(file, id2label=["A"]), r"config.json` cannot be used \("),
    "no extractor": (EXTRACTOR, pathlib.Path.unlink, f"lacks preprocessor_config.json, .*: {WHERE}"),
    "extractor list": (EXTRACTOR, lambda file: file.write_text("[]"), r"holds '\[\]', expected a JSON object"),
    "extractor text": (EXTRACTOR, lambda file: changed(file, mean="a"), r"config.json` cannot be used \(.*'a'"),
}

MODEL, OUTPUT = ("--model", "FOLDER"), ("--output_dir", "x")
RUN = ("--model_name_or_path", "FOLDER", "--data_dir", "DATA", *OUTPUT, "--use_cpu", "true")
COMMANDS = {
    "classify": ("RECORD", *MODEL),
    "embed": ("RECORD", *MODEL, "--output", "x.npy"),
    "plot": ("RECORD", *MODEL, "--output", "x.png"),
    "explain": ("RECORD", *MODEL, *OUTPUT),
    "export": (*MODEL, "--output", "x.onnx"),
    "release": ("FOLDER", *OUTPUT),
    "evaluate": RUN,
    "train": RUN,
    "pretrain": RUN,
}
OTHERS = list(COMMANDS)[1:]


@pytest.mark.parametrize(
    ("damage", "command"),
    [
        *((damage, "classify") for damage in DAMAGES),
        *((damage, command) for damage in ("cut weights", "bert") for command in OTHERS),
    ],
)
def test_a_checkpoint_that_cannot_be_used_is_one_line(
    damage, command, whole, simulated_folder, tmp_path, monkeypatch, capsys
):
    folder, (name, spoil, message) = tmp_path / "model", DAMAGES[damage]
    shutil.copytree(whole, folder)
    spoil(folder / name)
    monkeypatch.chdir(tmp_path)
    places = {"RECORD": simulated_folder / "records100/00000/00001_lr", "FOLDER": folder, "DATA": simulated_folder}
    line = error_of(capsys, command, *(places.get(argument, argument) for argument in COMMANDS[command]))
    assert re.search(message, line) and str(folder) in line
    assert not [path for path in tmp_path.iterdir() if path != folder]


def test_a_file_is_no_folder_of_a_checkpoint(whole, capsys):
    line = error_of(capsys, "classify", "record", "--model", whole / WEIGHTS)
    assert "is a file, expected the folder of a checkpoint" in line


def test_weights_in_several_files_are_checked_each(whole, simulated_folder, tmp_path, capsys):
    folder = tmp_path / "model"
    small_model().save_pretrained(folder, max_shard_size="10KB")
    small_extractor().save_pretrained(folder)
    command = ("classify", simulated_folder / "records100/00000/00001_lr", "--model", folder)
    cli.main([str(argument) for argument in command])
    first, *_, last = sorted(folder.glob("model-*.safetensors"))
    cut(last, -9)
    assert f"{last}` is no whole safetensors file" in error_of(capsys, *command)
    first.unlink()
    assert f"lacks {first.name}" in error_of(capsys, *command)


def test_convert_says_it_alike(whole, tmp_path, capsys):
    folder = tmp_path / "model"
    shutil.copytree(whole, folder)
    (folder / WEIGHTS).write_text(POINTER)
    command = ("convert", folder, "--output_dir", tmp_path / "converted")
    assert "run `git lfs pull`" in error_of(capsys, *command)
    cut(folder / CONFIG, 100)
    assert "config.json` is not whole JSON" in error_of(capsys, *command)
