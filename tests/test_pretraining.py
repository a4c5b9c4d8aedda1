"""Pre-training: the loss, what crops depend on, runs that stop and go on, and what is refused."""

import json
import math
import os
import pathlib
import resource
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
import small_models
import torch
import wfdb
from forked import launch_forked
from safetensors.torch import load_file
from test_distributed import FSDP2, disguise_as_accelerators, splits_of, steps_of
from transformers import AutoFeatureExtractor, AutoModel, AutoModelForPreTraining

from ecg_hf import (
    ECGTransformerConfig,
    ECGTransformerFeatureExtractor,
    ECGTransformerForMultiLabel,
    ECGTransformerForPreTraining,
    ECGTransformerModel,
    PreTrainer,
    PreTrainingArguments,
    cli,
    load_ptbxl,
)
from ecg_hf.pretraining.crops import Augmentation, Crops, crop_statistics
from ecg_hf.pretraining.probe import LinearProbe
from ecg_hf.pretraining.records import folder_files, load_records, ptbxl_files, table_files
from ecg_hf.pretraining.run import RecordArguments, load_training_records
from ecg_hf.pretraining.trainer import CollapseError
from ecg_hf.runs.arguments import ModelArguments
from ecg_hf.runs.windows import EpochSampler
from ecg_hf.synthetic import simulate_ptbxl

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def small_config(**fields) -> ECGTransformerConfig:
    return small_models.small_config(**{"pooling": "mean", "use_cls_token": False, **fields})


def small_model(**fields) -> ECGTransformerForPreTraining:
    torch.manual_seed(0)
    return ECGTransformerForPreTraining(small_config(**fields))


def extractor(**fields) -> ECGTransformerFeatureExtractor:
    return small_models.small_extractor(**fields)


def arguments(output_dir, **fields) -> PreTrainingArguments:
    defaults = {
        "num_train_epochs": 2,
        "per_device_train_batch_size": 32,
        "logging_steps": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "report_to": "none",
    }
    return PreTrainingArguments(output_dir=str(output_dir), **{**defaults, **fields})


def make_trainer(records, output_dir, model=None, **fields) -> PreTrainer:
    return PreTrainer(
        model=model or small_model(),
        args=arguments(output_dir, **fields),
        train_dataset=records,
        feature_extractor=extractor(),
    )


def weights_of(folder) -> dict[str, torch.Tensor]:
    return load_file(pathlib.Path(folder) / "model.safetensors")


@pytest.fixture(scope="module")
def records(simulated_folder, simulated_cache):
    """The 128 simulated records of the training folds."""
    return load_training_records(RecordArguments(data_dir=str(simulated_folder), cache_dir=simulated_cache), 2.5)


def write_wfdb(folder, name, signal, rate=100, leads=LEADS) -> None:
    """`signal` (leads, samples) in mV."""
    folder.mkdir(parents=True, exist_ok=True)
    wfdb.wrsamp(
        name,
        fs=rate,
        units=["mV"] * len(leads),
        sig_name=list(leads),
        p_signal=signal.T,
        fmt=["16"] * len(leads),
        adc_gain=[1000.0] * len(leads),
        baseline=[0] * len(leads),
        write_dir=str(folder),
    )


def own_records(folder, count, seconds=10.0, rate=100, leads=LEADS) -> pathlib.Path:
    """A folder of `count` records that are nothing but noise."""
    generator = np.random.default_rng(0)
    for index in range(count):
        write_wfdb(folder, f"r{index:03}", generator.normal(0, 0.2, (len(leads), round(seconds * rate))), rate, leads)
    return folder


# ---- The model ----


def loss_by_pairs(features, records, patients, temperature) -> tuple[float, float]:
    """The loss and the accuracy, pair by pair."""
    features = [row / math.sqrt(sum(value**2 for value in row)) for row in features.double().numpy()]
    losses, hits = [], []
    for i, anchor in enumerate(features):
        others, positives = {}, []
        for j, other in enumerate(features):
            if i == j or (patients[i] == patients[j] and records[i] != records[j]):
                continue
            others[j] = sum(anchor * other) / temperature
            if records[i] == records[j]:
                positives.append(j)
        total = sum(math.exp(value) for value in others.values())
        losses.append(-sum(math.log(math.exp(others[j]) / total) for j in positives) / len(positives))
        hits.append(max(others, key=others.get) in positives)
    return sum(losses) / len(losses), sum(hits) / len(hits)


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_the_loss_is_that_of_all_pairs_but_those_of_one_patient(temperature):
    model = small_model(contrastive_temperature=temperature, initializer_range=0.2).eval()
    values = torch.randn(11, 12, 250, generator=torch.Generator().manual_seed(1))
    record_ids = torch.tensor([1, 1, 2, 2, 3, 3, 4, 4, 4, 5, 5])
    patient_ids = torch.tensor([7, 7, 7, 7, 8, 8, 9, 9, 9, 7, 7])
    for patients in (patient_ids, None):
        output = model(values, record_ids=record_ids, patient_ids=patients)
        features = model.projection_head(output.pooler_output).detach()
        seen = (record_ids if patients is None else patients).tolist()
        loss, accuracy = loss_by_pairs(features, record_ids.tolist(), seen, temperature)
        assert output.loss.item() == pytest.approx(loss, abs=1e-5)
        assert output.accuracy.item() == pytest.approx(accuracy, abs=1e-6)


def test_the_feature_deviation_is_zero_where_all_crops_look_the_same():
    model = small_model().eval()
    record_ids = torch.tensor([0, 0, 1, 1])
    values = torch.randn(1, 12, 250).expand(4, -1, -1)
    assert model(values, record_ids=record_ids).feature_std.item() == pytest.approx(0, abs=1e-4)
    features = torch.nn.functional.normalize(torch.randn(4, 128), dim=1)
    model.projection_head = torch.nn.Sequential()
    model.ecg_transformer.forward = lambda *args, **kwargs: type("Output", (), {"pooler_output": features})()
    expected = (features - features.mean(dim=0)).square().sum(dim=1).mean().sqrt()
    assert model(values, record_ids=record_ids).feature_std.item() == pytest.approx(expected.item(), abs=1e-6)


@pytest.mark.parametrize(
    ("record_ids", "patient_ids", "message"),
    [
        ([1, 1, 2, 3], None, "another one with the same `record_ids`"),
        ([1, 1, 2, 2], [5, 5, 5, 5], "All 4 rows of the batch are of one patient"),
        ([1, 1, 1, 1], None, "All 4 rows of the batch are of one patient"),
    ],
)
def test_batches_without_positives_or_negatives_are_refused(record_ids, patient_ids, message):
    patients = None if patient_ids is None else torch.tensor(patient_ids)
    with pytest.raises(ValueError, match=message):
        small_model()(torch.randn(4, 12, 250), record_ids=torch.tensor(record_ids), patient_ids=patients)


def test_checkpoints_change_between_pre_training_classification_and_encoder(tmp_path):
    small_model().save_pretrained(tmp_path / "pretraining")
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "pretraining")
    assert type(model) is ECGTransformerForPreTraining and not model.head_is_random
    assert type(AutoModel.from_pretrained(tmp_path / "pretraining")) is ECGTransformerForPreTraining
    auto_map = json.loads((tmp_path / "pretraining/config.json").read_text())["auto_map"]
    assert auto_map["AutoModel"] == "modeling_ecg_transformer.ECGTransformerForPreTraining"
    assert auto_map["AutoModelForPreTraining"] == auto_map["AutoModel"]

    encoder = ECGTransformerModel.from_pretrained(tmp_path / "pretraining")
    with pytest.warns(UserWarning, match="has no trained head"):
        classifier = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "pretraining")
    classifier.save_pretrained(tmp_path / "classifier")
    with pytest.warns(UserWarning, match="has no trained head"):
        again = ECGTransformerForPreTraining.from_pretrained(tmp_path / "classifier")
    for name, value in model.base_model.state_dict().items():
        for other in (encoder, classifier.base_model, again.base_model):
            assert torch.equal(value, other.state_dict()[name]), name


# ---- Crops ----


AUGMENTATION = Augmentation(0.5, gain=0.2, noise=0.1, wander=0.2, smoothing_seconds=0.05)


def crops_of(records, keys, seed=3, augmentation=AUGMENTATION, **fields) -> dict[int, list[torch.Tensor]]:
    """Both crops of each record."""
    batch = Crops(records, extractor(**fields), augmentation, seed).__getitems__(keys)
    crops = {}
    for record_id, values in zip(batch["record_ids"].tolist(), batch["input_values"], strict=True):
        crops.setdefault(record_id, []).append(values)
    return crops


def test_crops_depend_on_seed_epoch_and_record_alone(records):
    together = crops_of(records, [(2, index) for index in range(6)])
    for index in (4, 1):
        for record_id, crops in crops_of(records.select([9, index]), [(2, 1)]).items():
            assert all(map(torch.equal, crops, together[record_id]))
    for changed in (crops_of(records, [(1, 4)]), crops_of(records, [(2, 4)], seed=4)):
        for record_id, crops in changed.items():
            assert not torch.equal(crops[0], together[record_id][0])
    assert not torch.equal(*together[records[0]["ecg_id"]])


def test_as_many_crops_as_asked_for_are_cut_from_each_record(records):
    crops = Crops(records, extractor(num_samples=125), AUGMENTATION, 0, crops_per_record=4)
    batch = crops.__getitems__([(0, 3), (0, 1)])
    assert batch["input_values"].shape == (8, 12, 125)
    assert batch["record_ids"].tolist() == [records[3]["ecg_id"]] * 4 + [records[1]["ecg_id"]] * 4
    assert len(torch.unique(batch["input_values"], dim=0)) == 8


def test_a_crop_is_a_stretch_of_its_record(records):
    plain = crops_of(records, [(0, 5)], augmentation=Augmentation())
    record = records[5]
    whole = extractor(num_samples=1000)(
        np.array(record["signal"], np.int16).reshape(12, -1),
        sampling_rate=100,
        lead_names=record["lead_names"],
        units="uV",
    )["input_values"][0]
    places = [
        [start for start in range(751) if torch.equal(whole[:, start : start + 250], crop)]
        for crop in plain[record["ecg_id"]]
    ]
    assert all(len(starts) == 1 for starts in places) and places[0] != places[1]


def test_leads_are_hidden_at_the_rate_asked_for_and_never_all(records):
    keys = [(epoch, index) for epoch in range(3) for index in range(100)]
    for probability in (0.0, 0.25, 0.9):
        crops = Crops(records, extractor(), Augmentation(probability, noise=0.1), 0).__getitems__(keys)["input_values"]
        hidden = ~crops.any(dim=2)
        assert not hidden.all(dim=1).any()
        # Where all twelve leads would be hidden, one is not.
        expected = probability - probability**12 / 12
        assert hidden.float().mean().item() == pytest.approx(expected, abs=0.02)


def test_gain_and_noise_have_the_size_asked_for(records):
    keys = [(epoch, index) for epoch in range(10) for index in range(10)]
    plain = Crops(records, extractor(), Augmentation(), 0).__getitems__(keys)["input_values"]
    noisy = Crops(records, extractor(), Augmentation(noise=0.3), 0).__getitems__(keys)["input_values"]
    deviations = (noisy - plain).std(dim=(1, 2))
    assert 0 <= deviations.min() < 0.05 and 0.25 < deviations.max() <= 0.31
    louder = Crops(records, extractor(), Augmentation(gain=0.2), 0).__getitems__(keys)["input_values"]
    factors = (louder * plain).sum(dim=(1, 2)) / plain.square().sum(dim=(1, 2))
    assert 0.8 <= factors.min() < 0.85 and 1.15 < factors.max() <= 1.2
    assert torch.allclose(louder, factors[:, None, None] * plain, atol=1e-4)


def test_the_baseline_wanders_slowly_and_smoothing_is_a_moving_average(records):
    keys = [(0, index) for index in range(40)]
    plain = Crops(records, extractor(), Augmentation(), 0).__getitems__(keys)["input_values"]
    wandering = Crops(records, extractor(), Augmentation(wander=0.5), 0).__getitems__(keys)["input_values"]
    baseline = wandering - plain
    assert 0.4 < baseline.abs().max() <= 0.501
    # A sine of amplitude 0.5 and 0.7 Hz rises by at most 2.2 in a second.
    assert baseline.diff(dim=2).abs().max() * 100 <= 2 * math.pi * 0.7 * 0.5 + 0.01
    smooth = Crops(records, extractor(), Augmentation(smoothing_seconds=0.05), 0).__getitems__(keys)["input_values"]
    averages = [
        torch.nn.functional.avg_pool1d(torch.nn.functional.pad(plain, (k, k), mode="replicate"), 2 * k + 1, 1)
        for k in range(3)
    ]
    widths = [
        [k for k, average in enumerate(averages) if torch.allclose(crop, average[index], atol=1e-4)]
        for index, crop in enumerate(smooth)
    ]
    assert all(len(found) == 1 for found in widths) and {found[0] for found in widths} == {0, 1, 2}


def test_leads_with_tokens_of_their_own_are_absent(records):
    crops = Crops(records, extractor(lead_tokens=True), Augmentation(0.5), 0)
    whole = Crops(records, extractor(lead_tokens=True), Augmentation(), 0)
    keys = [(0, index) for index in range(20)]
    batch, all_leads = crops.__getitems__(keys), whole.__getitems__(keys)
    assert batch["input_values"].shape == (40, 6, 250) and batch["lead_ids"].shape == (40, 6)
    assert len({tuple(row) for row in batch["lead_ids"].tolist()}) > 30
    rows = batch["lead_ids"][:, :, None].expand(-1, -1, 250)
    assert torch.equal(batch["input_values"], all_leads["input_values"].gather(1, rows))


@pytest.mark.filterwarnings("ignore:The leads")
def test_other_rates_and_leads_are_brought_to_the_models(tmp_path):
    leads = ["V1", "I", "II"]
    folder = own_records(tmp_path / "own", 4, rate=250, leads=leads)
    records = load_records(folder_files(folder), 2.5, tmp_path)
    mean, std = crop_statistics(records, extractor())
    # Noise of 0.2 mV at 250 Hz keeps the share below 50 Hz.
    assert std[6] == pytest.approx(0.2 * 0.4**0.5, rel=0.1)
    assert mean[7:] == [0.0] * 5 and std[7:] == [1.0] * 5
    batch = Crops(records, extractor(), Augmentation(noise=0.1), 0).__getitems__([(0, 0), (0, 1)])
    present = batch["input_values"].any(dim=2)
    assert present.tolist() == [[True] * 7 + [False] * 5] * 4  # I and II give the other limb leads
    assert (batch["patient_ids"] == -1 - batch["record_ids"]).all()  # of an unknown patient each


# ---- Runs ----


@pytest.fixture(scope="module")
def finished(simulated_folder, simulated_cache, tmp_path_factory):
    """A run of the command line, probe and all: its folder and results."""
    output = tmp_path_factory.mktemp("pretraining") / "run"
    return output, run_cli(simulated_folder, simulated_cache, output)


def run_cli(folder, cache, output, **values) -> dict:
    settings = {
        "data_dir": folder,
        "cache_dir": cache,
        "output_dir": output,
        "architecture": "ptbxl_100hz",
        "attn_implementation": "eager",
        "num_train_epochs": 2,
        "per_device_train_batch_size": 64,
        "probe_every": 1,
        "use_cpu": True,
        "disable_tqdm": True,
        "logging_steps": 1,
        **values,
    }
    given = {name: value for name, value in settings.items() if value is not None}
    return cli.pretrain([str(part) for name, value in given.items() for part in (f"--{name}", value)])


def test_a_run_leaves_an_encoder(finished):
    output, results = finished
    assert results["num_records"] == 128 and results["epochs"] == 2
    model = AutoModel.from_pretrained(output)
    assert type(model) is ECGTransformerModel
    assert model.config.provenance == {
        "license": "apache-2.0",
        "pretraining_data": "128 simulated ECGs",
        "ptbxl_folds": [],
    }
    assert not any(name.startswith("projection_head") for name in weights_of(output))
    feature_extractor = AutoFeatureExtractor.from_pretrained(output)
    assert feature_extractor.num_samples == 250 and len(feature_extractor.std) == 12
    assert {"learning_curves.png", "recipe.yaml", "log_history.json"} <= {file.name for file in output.iterdir()}
    card = (output / "README.md").read_text()
    assert "pre-trained without labels on 128 simulated ECGs" in card and "says nothing about patients" in card
    assert f"| this encoder | {results['probe_macro_auroc']:.3f} | {results['probe_macro_auprc']:.3f} |" in card
    assert "2 epochs of 128 records" in card and "`lead_mask_probability` 0.5" in card
    checkpoint = output / "_stages/pretrain/checkpoint-4"
    trained = ECGTransformerForPreTraining.from_pretrained(checkpoint)
    for name, value in model.state_dict().items():
        assert torch.equal(value, trained.base_model.state_dict()[name])


def test_a_release_is_half_as_large_and_computes_in_full_precision(finished, records, tmp_path):
    output, _ = finished
    cli.release([str(output), "--output_dir", str(tmp_path / "small-encoder")])
    release = tmp_path / "small-encoder"
    assert (release / "model.safetensors").stat().st_size < 0.52 * (output / "model.safetensors").stat().st_size
    assert not list(release.glob("*.py")) and not (release / "log_history.json").exists()
    card = (release / "README.md").read_text()
    assert "# small-encoder" in card and "stored in 16 bit" in card
    model, whole = (AutoModel.from_pretrained(folder).eval() for folder in (release, output))
    assert model.dtype == torch.float32
    crops = Crops(records, extractor(), Augmentation(), 0).__getitems__([(0, index) for index in range(8)])
    with torch.no_grad():
        features, exact = (each(crops["input_values"]).pooler_output for each in (model, whole))
    assert (features - exact).abs().max() < 5e-3 * exact.std()
    with pytest.raises(FileExistsError, match="not empty"):
        cli.release([str(output), "--output_dir", str(release)])


def test_a_run_logs_loss_accuracy_deviation_rate_and_probe(finished):
    output, results = finished
    history = json.loads((output / "log_history.json").read_text())
    steps = [entry for entry in history if "loss" in entry]
    assert len(steps) == 4 and all(
        {"loss", "accuracy", "feature_std", "learning_rate", "grad_norm", "seconds"} <= entry.keys() for entry in steps
    )
    probes = {entry["epoch"]: entry["probe_macro_auroc"] for entry in history if "probe_macro_auroc" in entry}
    assert list(probes) == [0, 1, 2] and all(0.5 < value <= 1 for value in probes.values())
    assert results["probe_macro_auroc"] == probes[2]


def test_post_training_takes_the_encoder(finished, simulated_folder, simulated_cache, tmp_path):
    output, _ = finished
    settings = {
        "model_name_or_path": output,
        "data_dir": simulated_folder,
        "cache_dir": simulated_cache,
        "output_dir": tmp_path / "run",
        "probe_num_train_epochs": 2,
        "per_device_train_batch_size": 64,
        "num_bootstrap_resamples": 20,
        "use_cpu": True,
        "disable_tqdm": True,
    }
    flags = [str(part) for name, value in settings.items() for part in (f"--{name}", value)]
    cli.train([*flags, "--stages", "probe"])
    first, second = weights_of(output), weights_of(tmp_path / "run")
    for name, value in first.items():
        assert torch.equal(value, second[f"ecg_transformer.{name}"])


def test_pre_training_goes_on_from_an_encoder(finished, simulated_folder, simulated_cache, tmp_path):
    output, _ = finished
    run_cli(simulated_folder, simulated_cache, tmp_path / "run", model_name_or_path=output, max_steps=1, probe_every=0)
    before, after = (AutoFeatureExtractor.from_pretrained(folder) for folder in (output, tmp_path / "run"))
    assert before.to_dict() == after.to_dict()
    assert weights_of(tmp_path / "run").keys() == weights_of(output).keys()


def test_records_of_validation_and_test_are_never_read(simulated_folder, tmp_path):
    folder = shutil.copytree(simulated_folder, tmp_path / "ptbxl")
    table = pd.read_csv(folder / "ptbxl_database.csv")
    for filename in table.loc[table["strat_fold"] > 8, "filename_lr"]:
        for suffix in (".hea", ".dat"):
            (folder / f"{filename}{suffix}").write_bytes(b"unreadable")
    results = run_cli(folder, tmp_path / "cache", tmp_path / "run", max_steps=1)
    assert results["num_records"] == (table["strat_fold"] <= 8).sum() and "probe_macro_auroc" in results
    dataset = load_training_records(RecordArguments(data_dir=str(folder), cache_dir=tmp_path / "cache"), 2.5)
    assert set(dataset["ecg_id"]) == set(table.loc[table["strat_fold"] <= 8, "ecg_id"])
    with pytest.raises(ValueError, match="cannot be used"):  # the test would notice
        run_cli(folder, tmp_path / "cache", tmp_path / "other", max_steps=1, probe_fold=9)


@pytest.fixture(scope="module")
def labelled_halves(tmp_path_factory):
    """The training records of 600 simulated ones, and two halves of them with superclasses, for the probe."""
    root = tmp_path_factory.mktemp("600")
    folder = simulate_ptbxl(root / "ptbxl", 600, seed=1, sampling_rates=(100,))
    records = load_training_records(RecordArguments(data_dir=str(folder), cache_dir=root), 2.5)
    labelled = load_ptbxl(folder, "superdiagnostic", 100, cache_dir=root)["train"]
    halves = (labelled.select(range(start, len(labelled), 2)) for start in (0, 1))
    return records, LinearProbe(*halves, extractor(), 128)


def test_pre_training_lifts_the_probe_above_random_weights(labelled_halves, tmp_path):
    records, probe = labelled_halves
    tokens = [
        {"channels": 32, "kernel_size": 7, "stride": 2, "padding": 3, "norm_groups": 4},
        {"channels": 32, "kernel_size": 5, "stride": 5, "activation": False},
    ]
    positions = {"position_embedding_type": "sincos", "position_scale": 0.5}
    fields = {"max_steps": 60, "per_device_train_batch_size": 64, "learning_rate": 5e-3, "save_strategy": "no"}
    gains = []
    for seed in range(3):
        torch.manual_seed(seed)
        config = small_config(
            hidden_size=32, intermediate_size=64, pooling="norm_mean", patch_size=None, conv_layers=tokens, **positions
        )
        model = ECGTransformerForPreTraining._from_config(config, attn_implementation="eager")
        before = probe(model.base_model)["macro_auroc"]
        trainer = make_trainer(
            records, tmp_path / str(seed), model, seed=seed, lead_mask_probability=0.25, noise=0.2, **fields
        )
        trainer.pretrain()
        gains.append(probe(model.base_model)["macro_auroc"] - before)
    # Seen: .022, .029, .015 and, with a fourth seed, .046.
    assert min(gains) > 0 and np.mean(gains) > 0.01


class Killed(Exception):
    pass


def killed_run(records, output, at_step, **fields) -> None:
    trainer = make_trainer(records, output, **fields)
    with small_models.stopped_at(trainer, at_step, Killed):
        trainer.pretrain()


RESUMABLE = {"num_train_epochs": 3, "save_strategy": "steps", "save_steps": 3}


@pytest.mark.parametrize("damaged", [False, True])
def test_a_killed_and_resumed_run_ends_with_the_bits_of_one_left_alone(records, tmp_path, damaged):
    make_trainer(records, tmp_path / "alone", **RESUMABLE).pretrain()
    killed_run(records, tmp_path / "killed", at_step=7, **RESUMABLE)
    if damaged:
        file = tmp_path / "killed/_stages/pretrain/checkpoint-6/optimizer.pt"
        file.write_bytes(file.read_bytes()[:1000])
    results = make_trainer(records, tmp_path / "killed", **RESUMABLE).pretrain(resume_from_checkpoint=True)
    first, second = weights_of(tmp_path / "alone"), weights_of(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [json.loads((tmp_path / name / "log_history.json").read_text()) for name in ("alone", "killed")]
    losses = [[(entry["step"], entry["loss"]) for entry in log if "loss" in entry] for log in logs]
    assert losses[0] == losses[1] and len(losses[0]) == 12
    again = make_trainer(records, tmp_path / "killed", **RESUMABLE).pretrain(resume_from_checkpoint=True)
    assert again == results


@pytest.mark.parametrize("step", [1, 7])
def test_an_interrupted_run_is_resumed_by_the_same_trainer(records, tmp_path, step):
    make_trainer(records, tmp_path / "alone", **RESUMABLE).pretrain()
    trainer = make_trainer(records, tmp_path / "run", **RESUMABLE)
    with small_models.stopped_at(trainer, step):
        trainer.pretrain()
    results = trainer.pretrain(resume_from_checkpoint=True)
    first, second = weights_of(tmp_path / "alone"), weights_of(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)
    logs = [json.loads((tmp_path / name / "log_history.json").read_text()) for name in ("alone", "run")]
    seen = [[(entry["step"], entry["accuracy"]) for entry in log if "accuracy" in entry] for log in logs]
    assert seen[0] == seen[1]
    assert trainer.pretrain(resume_from_checkpoint=True) == results


def test_probing_changes_nothing_in_training(finished, simulated_folder, simulated_cache, tmp_path):
    output, _ = finished
    run_cli(simulated_folder, simulated_cache, tmp_path / "run", probe_every=0)
    first, second = weights_of(output), weights_of(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def train_in_two_processes(folder, cache, output):
    records = load_training_records(RecordArguments(data_dir=folder, cache_dir=cache), 2.5)
    trainer = make_trainer(records, output, per_device_train_batch_size=16)
    assert trainer.args.world_size == 2
    trainer.pretrain()
    if trainer.is_world_process_zero():
        pathlib.Path(output + ".json").write_text(json.dumps(steps_of(trainer)))


@pytest.mark.distributed
def test_two_processes_train_as_one_with_the_whole_batch(records, simulated_folder, simulated_cache, tmp_path):
    places = (str(simulated_folder), str(simulated_cache), str(tmp_path / "two"))
    processes = launch_forked(tmp_path / "two", train_in_two_processes, *places)
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    alone = make_trainer(records, tmp_path / "one")
    alone.pretrain()
    assert len(steps_of(alone)) == 8
    np.testing.assert_allclose(json.loads((tmp_path / "two.json").read_text()), steps_of(alone), atol=1e-5, rtol=1e-5)


def test_models_with_tokens_of_single_leads_train(records, tmp_path):
    trainer = PreTrainer(
        model=small_model(lead_layout="tokens"),
        args=arguments(tmp_path / "run", max_steps=2, lead_mask_probability=0.75),
        train_dataset=records,
        feature_extractor=extractor(lead_tokens=True),
    )
    seen = []
    trainer.model.ecg_transformer.register_forward_pre_hook(
        lambda module, args, inputs: seen.append(inputs["lead_ids"].shape), with_kwargs=True
    )
    before = {name: value.clone() for name, value in trainer.model.state_dict().items()}
    trainer.pretrain()
    assert seen == [(64, 3)] * 2
    assert not any(torch.equal(before[name], value.cpu()) for name, value in trainer.model.state_dict().items())


def test_bfloat16_trains(records, tmp_path):
    results = make_trainer(records, tmp_path / "run", bf16=True, max_steps=2).pretrain()
    assert math.isfinite(results["loss"])


def test_a_collapse_stops_the_run_and_says_what_to_change(records, tmp_path):
    model = small_model()
    model.projection_head.fc2.weight.data.zero_()
    model.projection_head.fc2.bias.data.fill_(1.0)
    with pytest.raises(CollapseError, match="deviation is .* Use a lower `learning_rate`, more `warmup_steps`"):
        make_trainer(records, tmp_path / "run", model, learning_rate=1e-9, warmup_steps=0).pretrain()


# ---- Bad input ----


def test_a_folder_without_records_is_refused(tmp_path):
    (tmp_path / "lead.csv").write_text("I\n0.1\n0.2\n")
    missing = r"There is no record .*\.csv or \.txt with a `NAME\.json` .*`--table`"
    with pytest.raises(ValueError, match=missing):
        load_records(folder_files(tmp_path), 2.5, tmp_path)
    with pytest.raises(ValueError, match=missing):
        cli.prepare(["--data_dir", str(tmp_path), "--output_dir", str(tmp_path / "to")])
    with pytest.raises(FileNotFoundError, match="is not a folder"):
        folder_files(tmp_path / "absent")


def test_a_part_of_ptbxl_is_refused(simulated_folder):
    with pytest.raises(ValueError, match="is a part of PTB-XL"):
        folder_files(simulated_folder / "records100")


def test_one_record_or_one_patient_is_refused(records, tmp_path):
    with pytest.raises(ValueError, match="1 records do not fill a batch of 32"):
        make_trainer(records.select([0]), tmp_path / "run")
    with pytest.raises(ValueError, match="`per_device_train_batch_size` to 2 or more"):
        arguments(tmp_path, per_device_train_batch_size=1)
    without = records.remove_columns("patient_id")
    one = without.add_column("patient_id", [7] * len(records))
    several = datasets.concatenate_datasets([without.add_column("patient_id", [8] * len(records)), one])
    for dataset in (one, several.select(range(255, 127, -1))):
        with pytest.raises(ValueError, match="All 128 records are of one patient"):
            make_trainer(dataset, tmp_path / "run")
    for unknown in (None, float("nan"), " "):
        make_trainer(without.add_column("patient_id", [unknown] * len(records)), tmp_path / "run")


def test_a_batch_of_one_patient_stops_with_a_message(records, tmp_path):
    order = list(EpochSampler(128, seed=42))[:32]
    patients = np.arange(128)
    patients[[index for _, index in order]] = 1000
    trainer = make_trainer(
        records.remove_columns("patient_id").add_column("patient_id", patients), tmp_path / "run", seed=42
    )
    with pytest.raises(ValueError, match="All 64 rows of the batch are of one patient"):
        trainer.pretrain()


BAD_RECORDS = {
    "flat": np.full((12, 1000), 0.1),
    "short": np.random.default_rng(1).normal(0, 0.2, (12, 249)),
    "nan": np.where(np.arange(1000) == 7, np.nan, np.zeros((12, 1000))),
}


@pytest.fixture(scope="module")
def hundred_records(tmp_path_factory):
    return own_records(tmp_path_factory.mktemp("own") / "records", 100)


@pytest.mark.parametrize("fault", BAD_RECORDS)
def test_bad_records_are_named_and_left_out_but_not_many(hundred_records, tmp_path, caplog, fault):
    folder = shutil.copytree(hundred_records, tmp_path / "own")
    write_wfdb(folder, "bad_1", BAD_RECORDS[fault])
    with caplog.at_level("WARNING"):
        records = load_records(folder_files(folder), 2.5, tmp_path)
    assert len(records) == 100
    assert "1 of 101 records are skipped" in caplog.text and "bad_1" in caplog.text
    write_wfdb(folder, "bad_2", BAD_RECORDS[fault])
    with pytest.raises(ValueError, match=r"More than 1% of the 102 records cannot be used[\s\S]*bad_1[\s\S]*bad_2"):
        load_records(folder_files(folder), 2.5, tmp_path)


def test_of_a_table_a_few_records_may_be_missing_or_cut_short(hundred_records, tmp_path, caplog):
    folder = shutil.copytree(hundred_records, tmp_path / "own")
    os.truncate(folder / "r007.dat", 6000)
    rows = [
        "r000.hea",
        "./r001",
        str(folder / "r002.dat"),
        "../own/r003",
        *(f"r{index:03}" for index in range(4, 100)),
    ]

    def load(rows):
        (folder / "table.csv").write_text("\n".join(["path", *rows]))
        return load_records(table_files(folder / "table.csv", "path", None, None), 2.5, tmp_path)

    with caplog.at_level("WARNING"):
        records = load([*rows, *rows[:3]])  # each row counts, twice as well
    assert len(records) == 102 and len(set(records["ecg_id"])) == 102
    assert "1 of 103 records are skipped" in caplog.text
    assert "r007.dat is truncated: it has 6000 bytes, 1000 x 12 samples make 24000" in caplog.text
    with pytest.raises(
        ValueError, match=r"More than 1% of the 103 records[\s\S]*r007[\s\S]*gone_2: there is no such file"
    ):
        load([*rows, *(f"gone_{index}" for index in range(3))])


def test_a_changed_record_is_read_again(tmp_path):
    folder = own_records(tmp_path / "own", 3)
    before = load_records(folder_files(folder), 2.5, tmp_path)[0]["signal"]
    write_wfdb(folder, "r000", np.random.default_rng(5).normal(0, 0.2, (12, 1000)))
    assert load_records(folder_files(folder), 2.5, tmp_path)[0]["signal"] != before


@pytest.mark.parametrize("kind", ["pipe", "folder", "device"])
def test_what_is_no_file_is_named_and_never_waited_for(hundred_records, tmp_path, caplog, kind):
    make = {"pipe": os.mkfifo, "folder": os.mkdir, "device": lambda path: os.symlink("/dev/zero", path)}[kind]
    folder = shutil.copytree(hundred_records, tmp_path / "own")
    make(folder / "odd.hea")
    with caplog.at_level("WARNING"):
        assert len(load_records(folder_files(folder), 2.5, tmp_path)) == 100
    assert "1 of 101 records are skipped" in caplog.text and "odd.hea is not a regular file" in caplog.text
    make(tmp_path / "table.csv")
    with pytest.raises(FileNotFoundError, match=r"table.csv is not a regular file"):
        table_files(tmp_path / "table.csv", "file", None, None)
    (tmp_path / "ptbxl").mkdir()
    make(tmp_path / "ptbxl/ptbxl_database.csv")
    with pytest.raises(FileNotFoundError, match=r"ptbxl_database.csv is not a regular file"):
        load_ptbxl(tmp_path / "ptbxl", "all", 100, cache_dir=tmp_path)


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_table_gives_paths_and_patients(tmp_path, separator):
    own_records(tmp_path / "data", 6)
    rows = [["number", "file", "who"]] + [
        [str(index), f"data/r{index:03}{ending}", patient]
        for index, (ending, patient) in enumerate(
            [("", "7"), (".hea", "7.0"), (".dat", " 7"), ("", "x"), ("", ""), ("", "")]
        )
    ]
    table = tmp_path / "table.csv"
    table.write_text("\ufeff" + "\r\n".join(separator.join(row) for row in rows), encoding="utf-8")
    files = table_files(table, "file", "who", None)
    assert [file.patient_id for file in files] == [0, 0, 0, 1, None, None]
    assert load_records(files, 2.5, tmp_path)["patient_id"] == [0, 0, 0, 1, None, None]
    with pytest.raises(ValueError, match="`record_column`: .* has no column `path`; it has number, file, who"):
        table_files(table, "path", None, None)
    table.write_text("file,who\ndata/r000,1\n ,2\n")
    with pytest.raises(ValueError, match="`file` .* is empty in row 2"):
        table_files(table, "file", None, None)


def test_another_configuration_cannot_be_resumed(finished, simulated_folder, simulated_cache, records, tmp_path):
    output, _ = finished
    checkpoint = output / "_stages/pretrain/checkpoint-4"
    changes = {"hidden_size": 32, "contrastive_temperature": 0.2}
    trainer = make_trainer(records, tmp_path / "run", small_model(**changes))
    with pytest.raises(ValueError, match=r"cannot be resumed with other.*`model.hidden_size` was 128, now 32"):
        trainer.pretrain(resume_from_checkpoint=str(checkpoint))
    with pytest.raises(ValueError, match=r"`recipe.learning_rate` was 0.001, now 0.01"):
        run_cli(simulated_folder, simulated_cache, output, learning_rate=0.01, resume_from_checkpoint="true")
    with pytest.raises(FileExistsError, match="resume that run by `--resume_from_checkpoint true`"):
        run_cli(simulated_folder, simulated_cache, output)
    with pytest.raises(FileNotFoundError, match="is not a checkpoint of a run"):
        make_trainer(records, tmp_path / "run").pretrain(resume_from_checkpoint=str(tmp_path / "absent"))


def test_a_full_disk_leaves_the_last_checkpoint_usable(records, tmp_path):
    make_trainer(records, tmp_path / "alone", **RESUMABLE).pretrain()
    trainer = make_trainer(records, tmp_path / "run", **RESUMABLE)
    step, limits = trainer.training_step, resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill(*args):
        if trainer.state.global_step == 5:
            resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, limits[1]))
        return step(*args)

    trainer.training_step = fill
    try:
        with pytest.raises(OSError, match="checkpoint of step 6 could not be written.*checkpoint-3 is complete"):
            trainer.pretrain()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    make_trainer(records, tmp_path / "run", **RESUMABLE).pretrain(resume_from_checkpoint=True)
    first, second = weights_of(tmp_path / "alone"), weights_of(tmp_path / "run")
    assert all(torch.equal(first[name], second[name]) for name in first)


def probe_of(splits) -> LinearProbe:
    return LinearProbe(splits["train"], splits["validation"], extractor(), batch_size=8)


def sharded_pretraining(folder, cache, output, state, **fields):
    os.environ.update(FSDP2, FSDP_STATE_DICT_TYPE=state)
    disguise_as_accelerators()
    splits = splits_of(folder, cache)
    fields |= {"num_train_epochs": 2, "probe_every": 1, "per_device_train_batch_size": 16}
    PreTrainer(
        model=small_model(),
        args=arguments(output, **fields),
        train_dataset=splits["train"],
        feature_extractor=extractor(),
        probe=probe_of(splits),
    ).pretrain()


@pytest.mark.distributed
def test_the_probe_reads_an_encoder_that_is_sharded(simulated_folder, simulated_cache, tmp_path):
    places = (str(simulated_folder), str(simulated_cache), str(tmp_path / "run"))
    processes = launch_forked(tmp_path / "run", sharded_pretraining, *places, "SHARDED_STATE_DICT")
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    log = json.loads((tmp_path / "run/log_history.json").read_text())
    seen = [entry["probe_macro_auroc"] for entry in log if "probe_macro_auroc" in entry]
    probe = probe_of(splits_of(*places[:2]))
    encoders = small_model().base_model, ECGTransformerModel.from_pretrained(tmp_path / "run")
    assert len(seen) == 3 and seen[0] != seen[-1]
    assert [seen[0], seen[-1]] == pytest.approx([probe(encoder)["macro_auroc"] for encoder in encoders], abs=1e-6)


def each_node_with_a_part(folder, cache, output):
    with pytest.raises(ValueError, match="`save_on_each_node` cannot be true where FSDP .*: FULL_STATE_DICT`"):
        sharded_pretraining(folder, cache, output, "SHARDED_STATE_DICT", save_on_each_node=True)


@pytest.mark.distributed
def test_machines_cannot_have_whole_checkpoints_of_a_state_in_shards(simulated_folder, simulated_cache, tmp_path):
    places = (str(simulated_folder), str(simulated_cache), str(tmp_path / "run"))
    processes = launch_forked(tmp_path / "run", each_node_with_a_part, *places)
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"probe_fold": 10}, "fold 10 is for the test alone"),
        ({"lead_mask_probability": 1.0}, r"`lead_mask_probability` must lie in \[0, 1\)"),
        ({"noise": -0.1}, "`noise` must lie in"),
        ({"crops_per_record": 1}, "one has no partner"),
        ({"learning_rate": "1e-3"}, "is the string '1e-3' where a number is expected"),
    ],
)
def test_impossible_arguments_are_refused(tmp_path, fields, message):
    with pytest.raises((ValueError, TypeError), match=message):
        arguments(tmp_path, **fields)


def test_a_crop_longer_than_the_window_is_refused(simulated_folder, simulated_cache, tmp_path):
    with pytest.raises(ValueError, match="`crop_seconds` must lie between .* its window, 2.5 s; got 5 s"):
        run_cli(simulated_folder, simulated_cache, tmp_path / "run", crop_seconds=5.0)


def test_the_recipe_is_understood(tmp_path):
    recipe = pathlib.Path(__file__).parents[1] / "training/configs/pretrain_ptbxl_100hz.yaml"
    flags = ["--config", str(recipe), "--output_dir", str(tmp_path), "--data_dir", str(tmp_path), "--use_cpu"]
    model_args, record_args, args = cli.parse_arguments(flags, ModelArguments, RecordArguments, PreTrainingArguments)
    assert (model_args.architecture, record_args.sampling_rate, args.probe_fold) == ("ptbxl_100hz", 100, 8)


def test_ptbxl_files_are_those_of_the_folds(simulated_folder):
    assert len(ptbxl_files(simulated_folder, 100, [8])) == 16
    with pytest.raises(ValueError, match="100 and 500 Hz, not at 250"):
        ptbxl_files(simulated_folder, 250, [8])
