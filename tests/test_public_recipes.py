"""Recipes of the public encoders, on checkpoints in the layout of their authors' files."""

import json
import pathlib

import pytest
import yaml
from recorded import checkpoint

from ecg_hf import ECGTransformerForMultiLabel, cli, simulate_ptbxl
from ecg_hf.conversion import FAMILIES, convert_checkpoint

CONFIGS = pathlib.Path(__file__).parents[1] / "training/configs"
FILES = {
    "st_mem": "checkpoint_finetuned.pth",
    "ecg_fm": "checkpoint_finetuned.pt",
    "hubert_ecg": "checkpoint_finetune_linear.pt",
    "ecg_jepa_kim": "checkpoint_finetuned.pth",
    "ecg_jepa_weimann": "checkpoint_finetuned_attn.pt",
}
READS = {
    "st_mem": "250 Hz, 9 s",
    "ecg_fm": "500 Hz, 5 s",
    "hubert_ecg": "100 Hz, 5 s",
    "ecg_jepa_kim": "250 Hz, 10 s",
    "ecg_jepa_weimann": "500 Hz",
}
"""As the recipes say."""


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    """A folder with the converted checkpoints, by the names that the recipes expect, and records at 500 Hz."""
    folder = tmp_path_factory.mktemp("reader")
    for family, file in FILES.items():
        heads = 4 if family == "ecg_jepa_kim" else None  # which no tensor tells
        model, extractor = convert_checkpoint(checkpoint(f"{family}/{file}"), num_attention_heads=heads)
        model.save_pretrained(folder / family)
        extractor.save_pretrained(folder / family)
    simulate_ptbxl(folder / "PTBXL", 60, seed=4, sampling_rates=(500,))
    return folder


def command(family: str, **values) -> list[str]:
    fields = {"data_dir": "PTBXL", "cache_dir": "cache", "output_dir": f"runs/{family}", "use_cpu": True, **values}
    flags = [str(part) for name, value in fields.items() for part in (f"--{name}", value)]
    return ["train", "--config", str(CONFIGS / f"public_{family}.yaml"), *flags]


def test_each_public_family_with_published_weights_has_a_recipe():
    assert {path.stem.removeprefix("public_") for path in CONFIGS.glob("public_*.yaml")} == FAMILIES.keys() - {"mtecg"}


@pytest.mark.parametrize("family", FILES)
def test_a_recipe_is_ready_to_run(family, reader, monkeypatch, capsys):
    monkeypatch.chdir(reader)
    cli.main(command(family, dry_run=True, max_train_records=200, per_device_train_batch_size=8))
    printed = capsys.readouterr().err
    assert "This was a dry run" in printed and not pathlib.Path("runs", family).exists()
    recipe = yaml.safe_load((CONFIGS / f"public_{family}.yaml").read_text())
    assert "learning rate 0.001" in printed and f"{recipe['learning_rate']:g}" in printed
    config = json.loads((reader / family / "config.json").read_text())
    reads = f"{config['sampling_rate']:g} Hz, {config['num_samples'] / config['sampling_rate']:g} s"
    assert reads.startswith(READS[family])
    assert READS[family] in (CONFIGS / f"public_{family}.yaml").read_text()


def test_the_cheapest_recipe_trains(reader, monkeypatch):
    monkeypatch.chdir(reader)
    short = {"num_train_epochs": 1, "probe_num_train_epochs": 1, "num_bootstrap_resamples": 20}
    cli.main(command("hubert_ecg", max_train_records=24, **short, disable_tqdm=True))
    model = ECGTransformerForMultiLabel.from_pretrained("runs/hubert_ecg")
    assert model.config.sampling_rate == 100 and model.config.labels == ["CD", "HYP", "MI", "NORM", "STTC"]
    assert model.config.provenance["license"] == "cc-by-nc-4.0" and model.config.thresholds is not None
