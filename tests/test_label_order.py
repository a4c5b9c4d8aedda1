"""Labels belong to logits by their names: re-ordered where only the order differs, refused where they differ."""

import json
import shutil

import datasets
import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_models import LABELS, small_model
from test_post_training import make_trainer
from test_scripts import QUICK, flags

from ecg_hf import ECGTransformerForMultiLabel, cli
from ecg_hf.ptbxl.label_order import label_names_of, name_labels
from ecg_hf.ptbxl.parquet import load_ptbxl_parquet, write_ptbxl_parquet

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

ORDER = [3, 0, 4, 2, 1]  # not alphabetical
OTHER = [LABELS[index] for index in ORDER]


@pytest.fixture(scope="module")
def checkpoints(simulated_folder, simulated_cache, tmp_path_factory):
    """A run, and its checkpoint with the same logits in another order."""
    folder = tmp_path_factory.mktemp("order")
    places = {"data_dir": simulated_folder, "cache_dir": simulated_cache}
    cli.train(flags(**{**QUICK, **places, "output_dir": folder / "run"}))
    shutil.copytree(folder / "run", folder / "other", ignore=shutil.ignore_patterns("_stages"))
    weights = load_file(folder / "other/model.safetensors")
    for name in ("classifier.weight", "classifier.bias"):
        weights[name] = weights[name][ORDER].contiguous()
    save_file(weights, folder / "other/model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "other/config.json").read_text())
    config["id2label"] = {str(index): name for index, name in enumerate(OTHER)}
    config["label2id"] = dict(sorted((name, index) for index, name in enumerate(OTHER)))
    config["thresholds"] = [config["thresholds"][index] for index in ORDER]
    (folder / "other/config.json").write_text(json.dumps(config))
    return folder, places


def test_a_checkpoint_of_another_order_is_evaluated_against_its_own_labels(checkpoints):
    folder, places = checkpoints
    results = {
        name: cli.evaluate(
            flags(
                model_name_or_path=folder / name,
                output_dir=folder / f"{name}-evaluation",
                num_bootstrap_resamples=20,
                use_cpu=True,
                **places,
            )
        )
        for name in ("run", "other")
    }
    for name in ("macro_auroc", "macro_auprc", "loss"):
        assert results["other"][name] == pytest.approx(results["run"][name], abs=1e-6)
    for label in LABELS:
        assert results["other"]["per_label"][label]["auroc"] == results["run"]["per_label"][label]["auroc"]
    first, second = (pd.read_csv(folder / f"{name}-evaluation/predictions.csv") for name in ("run", "other"))
    assert list(second)[1:6] == [f"prob_{label}" for label in OTHER]
    pd.testing.assert_frame_equal(first, second[list(first)], atol=1e-6)


def test_post_training_goes_on_from_a_checkpoint_of_another_order_with_its_head(checkpoints, caplog):
    folder, places = checkpoints
    settings = {name: value for name, value in QUICK.items() if name != "architecture"}
    for name in ("run", "other"):
        further = {"output_dir": folder / f"{name}-further", "model_name_or_path": folder / name}
        cli.train(flags(**{**settings, **places, **further}))
    assert "a new head is put on it" not in caplog.text
    model = ECGTransformerForMultiLabel.from_pretrained(folder / "other-further")
    assert model.config.labels == OTHER
    first, second = (
        json.loads((folder / f"{name}-further/metrics.json").read_text())["test"] for name in ("run", "other")
    )
    for label in LABELS:
        assert second["per_label"][label]["auroc"] == pytest.approx(first["per_label"][label]["auroc"], abs=1e-3)


def permuted(model):
    other = small_model(OTHER)
    state = model.state_dict()
    for name in ("classifier.weight", "classifier.bias"):
        state[name] = state[name][ORDER]
    other.load_state_dict(state)
    return other


def test_trainer_evaluate_and_predict_bring_the_records_labels_into_order(simulated_splits, tmp_path):
    model = small_model()
    torch.nn.init.normal_(model.classifier.weight)
    first = make_trainer(simulated_splits, tmp_path / "first", model=model)
    second = make_trainer(simulated_splits, tmp_path / "second", model=permuted(model))
    outputs = [trainer.predict(simulated_splits["test"]) for trainer in (first, second)]
    np.testing.assert_array_equal(outputs[1].label_ids, outputs[0].label_ids[:, ORDER])
    for name in ("test_macro_auroc", "test_loss"):
        assert outputs[1].metrics[name] == pytest.approx(outputs[0].metrics[name], abs=1e-6)
    values = [trainer.evaluate()["eval_macro_auprc"] for trainer in (first, second)]
    assert values[0] == pytest.approx(values[1], abs=1e-6)
    batches = [next(iter(trainer.get_train_dataloader()))["labels"] for trainer in (first, second)]
    assert torch.equal(batches[1], batches[0][:, ORDER])


def test_other_labels_are_refused_everywhere(simulated_splits, tmp_path):
    model = small_model([*LABELS[1:], "LABEL"])
    with pytest.raises(ValueError, match="records have the labels CD, HYP, .*, the model HYP, .*, LABEL: name them"):
        make_trainer(simulated_splits, tmp_path / "run", model=model)
    unnamed = {name: split.select(range(len(split))) for name, split in simulated_splits.items()}
    for split in unnamed.values():
        split.info.description = ""
    trainer = make_trainer(unnamed, tmp_path / "run", model=model)
    for method in (trainer.evaluate, trainer.predict):
        with pytest.raises(ValueError, match="records have the labels CD"):
            method(simulated_splits["test"])


def test_the_names_travel_with_the_records(simulated_splits, simulated_folder, simulated_cache, tmp_path):
    test = simulated_splits["test"]
    test.save_to_disk(tmp_path / "saved")
    for dataset in (
        test.select([2, 0]),
        test.shuffle(seed=0),
        test.map(lambda record: {"age": 1}),
        datasets.load_from_disk(tmp_path / "saved"),
        datasets.concatenate_datasets([test, simulated_splits["train"]]),
    ):
        assert label_names_of(dataset) == LABELS
    write_ptbxl_parquet(simulated_folder, 100, tmp_path / "parquet", cache_dir=simulated_cache)
    from ecg_hf.cards import write_dataset_card

    write_dataset_card(tmp_path / "parquet")
    splits = load_ptbxl_parquet(str(tmp_path / "parquet"), "form", 100, cache_dir=tmp_path / "cache")
    assert len(label_names_of(splits["test"])) == 19
    assert label_names_of(datasets.Dataset.from_dict({"labels": [[1.0]]})) is None
    other = name_labels(test.select([0]), OTHER)
    assert label_names_of(test) == LABELS
    with pytest.raises(ValueError, match="Records with different labels were put together"):
        label_names_of(datasets.concatenate_datasets([test, other]))


def test_naming_labels_leaves_the_data_set_and_what_it_says_of_itself_alone(simulated_splits):
    mine = datasets.Dataset.from_dict({"labels": [[1.0, 0.0]]})
    mine.info.description = "From ward 3.\n\nConsent: broad."
    named = name_labels(mine, ["AF", "LBBB"])
    assert named.info.description.startswith(mine.info.description) and label_names_of(mine) is None
    again = name_labels(named, ["LBBB", "AF"])
    assert (label_names_of(named), label_names_of(again)) == (["AF", "LBBB"], ["LBBB", "AF"])
    assert again.info.description.startswith("From ward 3.\n\nConsent: broad.\n")
    assert name_labels(simulated_splits["test"], OTHER).data.nbytes == simulated_splits["test"].data.nbytes
    assert label_names_of(simulated_splits["test"]) == LABELS


def test_records_that_have_lost_the_names_of_their_labels_are_warned_of(simulated_splits, tmp_path, caplog):
    lost = datasets.Dataset.from_list(list(simulated_splits["validation"].select(range(4))))
    make_trainer(simulated_splits, tmp_path / "a").predict(lost)
    assert "do not name their labels" not in caplog.text  # the usual order
    make_trainer(simulated_splits, tmp_path / "b", model=small_model(OTHER)).predict(lost)
    assert f"taken to be in the model's order, {', '.join(OTHER)}" in caplog.text
