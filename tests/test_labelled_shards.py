"""Shards with labels: what `ecg-hf prepare` writes, and post-training that streams them."""

import json
import shutil

import datasets
import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from forked import launch_forked
from small_models import small_model, stopped_at
from test_challenge import write_folder
from test_distributed import steps_of
from test_post_training import extractor, make_trainer, same_weights, weights_of
from test_pretraining import own_records
from test_tables import write_record

from ecg_hf import cli, load_challenge, load_ecg_dataset
from ecg_hf.post_training import checks
from ecg_hf.post_training.data import TaskArguments, load_splits
from ecg_hf.post_training.features import CachedFeatures, cache_features
from ecg_hf.post_training.own_folders import names_of_folder
from ecg_hf.post_training.run import load_model
from ecg_hf.ptbxl.label_order import label_names_of
from ecg_hf.runs.arguments import ModelArguments
from ecg_hf.runs.labelled_shards import LabelledShards
from ecg_hf.runs.records import fingerprint_of_records
from ecg_hf.runs.shards import MANIFEST, ShardedRecords
from ecg_hf.tables.guards import were_guarded

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")


def prepare(output, **flags) -> dict:
    argv = ["--output_dir", str(output)]
    for name, value in flags.items():
        argv += [f"--{name}", *map(str, value if isinstance(value, list) else [value])]
    return cli.prepare(argv)


def streamed(shards, cache, **fields) -> dict:
    arguments = TaskArguments(**{"data_dir": str(shards), "streaming": True, "cache_dir": str(cache), **fields})
    return load_splits(arguments.data_dir, arguments, seed=0)


@pytest.fixture(scope="module")
def shards(simulated_folder, simulated_cache, tmp_path_factory):
    """The superdiagnostic task in shards of 20 records."""
    output = tmp_path_factory.mktemp("labelled") / "shards"
    prepare(output, data_dir=simulated_folder, task="superdiagnostic", cache_dir=simulated_cache, shard_size=20)
    return output


@pytest.fixture(scope="module")
def splits(shards, simulated_cache):
    return streamed(shards, simulated_cache)


# ---- Writing ----


def test_shards_hold_what_the_loader_gives(shards, splits, simulated_splits):
    assert isinstance(splits["train"], LabelledShards) and isinstance(splits["test"], datasets.Dataset)
    for name, expected in simulated_splits.items():
        found = splits[name] if name != "train" else splits[name].materialised(shards.parent)
        assert found.features == expected.features and label_names_of(found) == label_names_of(expected)
        columns = expected.column_names
        assert fingerprint_of_records(found, columns) == fingerprint_of_records(expected, columns)
        assert found.info.dataset_name == expected.info.dataset_name and found.info.license == expected.info.license
    manifest = json.loads((shards / MANIFEST).read_text())
    assert str(shards.parent) not in json.dumps(manifest) and not (shards / "unfinished").exists()
    stated = manifest["labelled"]
    assert (stated["task"], stated["problem_type"]) == ("superdiagnostic", "multi_label_classification")
    assert list(stated["titles"]) == stated["label_names"]


def test_labels_of_another_kind_are_other_shards(tmp_path):
    rows = ["path,AF,part"]
    for index in range(12):
        write_record(tmp_path, f"r{index:02}")
        rows.append(f"r{index:02},{index % 2},{('train', 'train', 'test')[index % 3]}")
    (tmp_path / "ecgs.csv").write_text("\n".join(rows))
    flags = {"table": tmp_path / "ecgs.csv", "label_columns": "AF", "split_column": "part", "cache_dir": tmp_path}
    first = prepare(tmp_path / "out", **flags)
    assert prepare(tmp_path / "out", problem_type="multi_label_classification", **flags) == first
    with pytest.raises(FileExistsError, match="shards of other records or settings"):
        prepare(tmp_path / "out", problem_type="regression", **flags)


def test_a_second_call_and_a_second_process_write_the_same(shards, simulated_folder, simulated_cache, tmp_path):
    flags = {"data_dir": simulated_folder, "cache_dir": simulated_cache, "shard_size": 20}
    before = (shards / MANIFEST).stat().st_mtime_ns
    prepare(shards, task="superdiagnostic", **flags)
    assert (shards / MANIFEST).stat().st_mtime_ns == before
    with pytest.raises(FileExistsError, match="shards of other records or settings"):
        prepare(shards, task="rhythm", **flags)
    prepare(tmp_path / "two", task="superdiagnostic", num_proc=2, **flags)
    assert json.loads((tmp_path / "two" / MANIFEST).read_text()) == json.loads((shards / MANIFEST).read_text())


@pytest.fixture(scope="module")
def own_table(tmp_path_factory):
    """Own records of two for each patient, with a label that is empty for some."""
    folder = own_records(tmp_path_factory.mktemp("own") / "records", 30)
    names = sorted(path.stem for path in folder.glob("*.hea"))
    table = {"path": names, "patient": [f"p{row // 2}" for row in range(30)]}
    table |= {"AF": [row % 2 for row in range(30)], "MI": ["" if row % 5 == 0 else row % 3 // 2 for row in range(30)]}
    table["age"] = ["" if row % 7 == 0 else 30 + row for row in range(30)]
    pd.DataFrame(table).to_csv(folder / "ecgs.csv", index=False)
    return folder / "ecgs.csv"


def test_a_table_is_split_by_patient_as_the_loader_does(own_table, tmp_path):
    flags = {"table": own_table, "label_columns": ["AF", "MI"], "patient_column": "patient", "split_seed": 3}
    prepare(tmp_path / "out", cache_dir=tmp_path / "cache", shard_size=10, **flags)
    found = streamed(tmp_path / "out", tmp_path / "cache")
    expected = load_ecg_dataset(
        own_table, label_columns=["AF", "MI"], patient_column="patient", seed=3, cache_dir=tmp_path / "cache"
    )
    for name, dataset in expected.items():
        assert list(found[name]["ecg_id"]) == list(dataset["ecg_id"])
        np.testing.assert_array_equal(found[name]["labels"], dataset["labels"])
        assert list(found[name]["patient_id"]) == list(dataset["patient_id"])
    assert found["train"].info.dataset_name == "own records (ecgs.csv)"
    assert found["train"][[3, 1]]["signal"].to_pylist() == [expected["train"][row]["signal"] for row in (3, 1)]


def test_a_folder_of_a_challenge_gives_its_codes_with_their_names(tmp_path):
    folder = write_folder(tmp_path / "challenge")
    prepare(tmp_path / "out", data_dir=folder, labels="dx", cache_dir=tmp_path / "cache", num_proc=2, shard_size=5)
    found, expected = (
        streamed(tmp_path / "out", tmp_path / "cache"),
        load_challenge(folder, cache_dir=tmp_path / "cache"),
    )
    assert label_names_of(found["train"]) == label_names_of(expected["train"])
    assert all(list(found[name]["ecg_id"]) == list(expected[name]["ecg_id"]) for name in expected)
    assert found["train"].labelled["titles"] == names_of_folder(folder, label_names_of(found["train"]))
    assert were_guarded(list(found.values()))
    assert not were_guarded(list(streamed(tmp_path / "out", tmp_path / "cache", train_fraction=0.5).values()))


def test_numbers_that_are_unknown_stay_unknown(own_table, tmp_path):
    flags = {"table": own_table, "label_column": "age", "problem_type": "regression"}
    prepare(tmp_path / "out", cache_dir=tmp_path / "cache", **flags)
    train = streamed(tmp_path / "out", tmp_path / "cache")["train"]
    expected = load_ecg_dataset(own_table, label_column="age", problem_type="regression", cache_dir=tmp_path / "cache")
    np.testing.assert_array_equal(train[:]["labels"].to_pylist(), list(expected["train"]["labels"]))
    assert np.isnan(np.array(train["labels"])).any()
    arguments = TaskArguments(data_dir=str(tmp_path / "out"), streaming=True, cache_dir=str(tmp_path / "cache"))
    model, _ = load_model(ModelArguments(), arguments, load_splits(arguments.data_dir, arguments, seed=0)["train"])
    assert model.config.problem_type == arguments.problem_type == "regression"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"min_seconds": 2}, "`--min_seconds` is for shards without labels"),
        ({"shard_size": 0}, "`shard_size` must be at least 1"),
        ({"task": "nothing"}, "nothing"),
        ({"label_column": "x"}, "`--label_column` is for own records"),
        ({"task": None, "split_seed": 0}, "`--split_seed` is for labels"),
        ({"data_dir": None}, "Give `--data_dir`"),
    ],
)
def test_what_cannot_be_prepared_is_refused(simulated_folder, tmp_path, capsys, flags, message):
    flags = {"data_dir": simulated_folder, "task": "superdiagnostic", **flags}
    with pytest.raises((ValueError, SystemExit)) as error:
        prepare(tmp_path / "out", **{name: value for name, value in flags.items() if value is not None})
    assert message in str(error.value) + capsys.readouterr().err and not (tmp_path / "out").exists()


# ---- Reading ----


def test_shards_of_the_other_kind_are_refused(shards, simulated_folder, tmp_path):
    with pytest.raises(ValueError, match="holds records with labels, for `ecg-hf train`"):
        ShardedRecords(shards)
    cli.prepare(["--data_dir", str(simulated_folder), "--output_dir", str(tmp_path / "bare")])
    with pytest.raises(ValueError, match="holds records without labels, for `ecg-hf pretrain`"):
        streamed(tmp_path / "bare", tmp_path)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": "rhythm"}, "have the task superdiagnostic, asked for is rhythm"),
        ({"problem_type": "regression"}, "have the problem_type multi_label_classification, asked for is regression"),
        ({"label_columns": ["AF"]}, "`--label_columns` is for `ecg-hf prepare`"),
        ({"table": "ecgs.csv"}, "`--table` is for `ecg-hf prepare`"),
        ({"split_seed": 4}, "`--split_seed` is for `ecg-hf prepare`"),
        ({"num_proc": 2}, "`--num_proc` is for `ecg-hf prepare`"),
        ({"shuffle_shards": 0}, "`shuffle_shards` must be at least 1"),
        ({"streaming": False, "shuffle_shards": 2}, "`--shuffle_shards` is for the shards of `--streaming`"),
    ],
)
def test_arguments_that_the_shards_contradict_are_refused(shards, tmp_path, fields, message):
    with pytest.raises(ValueError, match=message):
        streamed(shards, tmp_path, **fields)


def test_a_selection_reads_its_own_rows(splits, simulated_splits):
    rows = [3, 19, 20, 41, 90]
    few = splits["train"].select(rows)
    expected = simulated_splits["train"].select(rows)
    assert few[:]["signal"].to_pylist() == list(expected["signal"]) and list(few["ecg_id"]) == list(expected["ecg_id"])
    assert few.sizes == [2, 1, 1, 1] and few.select([0, 4])[[1]]["ecg_id"].to_pylist() == [expected["ecg_id"][4]]
    assert few.fingerprint != splits["train"].fingerprint != few.select([0]).fingerprint
    with pytest.raises(ValueError, match="give ascending rows"):
        few.select([1, 0])
    with pytest.raises(ValueError, match="`signal` is in the shards"):
        few.select_columns(["signal"])


def test_shares_are_those_of_the_loader(shards, simulated_folder, simulated_cache):
    cut = {"train_fraction": 0.5, "max_eval_records": 5}
    arguments = TaskArguments(data_dir=str(simulated_folder), cache_dir=str(simulated_cache), **cut)
    expected, found = load_splits(arguments.data_dir, arguments, seed=0), streamed(shards, simulated_cache, **cut)
    assert all(list(found[name]["ecg_id"]) == list(expected[name]["ecg_id"]) for name in expected)


def test_damaged_facts_are_named(shards, tmp_path):
    shutil.copytree(shards, tmp_path / "copy")
    file = tmp_path / "copy/facts/train.parquet"
    file.write_bytes(file.read_bytes()[:-9])
    with pytest.raises(ValueError, match="facts/train.parquet of .* bytes, the manifest says"):
        LabelledShards(tmp_path / "copy")


# ---- Training ----

FIELDS = {"per_device_train_batch_size": 16, "num_train_epochs": 1, "num_bootstrap_resamples": 10}


def test_streamed_records_train_as_those_of_the_cache_in_the_same_order(splits, simulated_splits, tmp_path):
    first = make_trainer(splits, tmp_path / "streamed", **FIELDS)
    results = first.post_train()
    second = make_trainer(simulated_splits, tmp_path / "cached", **FIELDS)
    second.training_sampler = lambda num_records, batch_size: first.training_sampler(num_records, batch_size)
    second.feature_order = lambda dataset: first.feature_order(first.train_dataset) if len(dataset) > 100 else None
    expected = second.post_train()
    assert steps_of(first) == steps_of(second) and len(steps_of(first)) >= 7
    assert {name for name in results if "seconds" not in name and results[name] != expected[name]} == set()
    facts = [json.loads((tmp_path / name / "metrics.json").read_text())["data"] for name in ("streamed", "cached")]
    assert facts[0] == facts[1] and (tmp_path / "streamed/README.md").is_file()


def test_a_stopped_stream_goes_on_at_the_same_record(shards, splits, simulated_cache, tmp_path):
    fields = {**FIELDS, "save_strategy": "steps", "save_steps": 2, "max_steps": 4, "stages": ["finetune"]}
    fields |= {"eval_strategy": "no", "load_best_model_at_end": False}
    make_trainer(splits, tmp_path / "alone", **fields).post_train()
    with stopped_at(trainer := make_trainer(splits, tmp_path / "stopped", **fields), 3):
        trainer.post_train()
    other = make_trainer(streamed(shards, simulated_cache, shuffle_shards=2), tmp_path / "stopped", **fields)
    with pytest.raises(ValueError, match="4 shards at a time by 1 workers"):
        other.post_train(resume_from_checkpoint=True)
    make_trainer(splits, tmp_path / "stopped", **fields).post_train(resume_from_checkpoint=True)
    assert same_weights(weights_of(tmp_path / "alone"), weights_of(tmp_path / "stopped"))


def features_of(splits, output) -> tuple[list[int], np.ndarray]:
    """The order of the records, and the features (records, windows, hidden) of the probe in it."""
    trainer = make_trainer(splits, output, stages=["probe"])
    folder = cache_features(trainer, "train", splits["train"], resume=False)
    found = CachedFeatures.read(folder, labels=None)
    return trainer.feature_order(splits["train"]), found.features.reshape(len(found.counts), found.counts[0], -1)


def features_in_two_processes(shards, cache, output):
    read, rows = [], LabelledShards.__getitem__

    def watched(self, key):
        table = rows(self, key)
        if isinstance(key, list):
            read.extend(table["ecg_id"].to_pylist())
        return table

    LabelledShards.__getitem__ = watched
    order, features = features_of(streamed(shards, cache), output)
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, read)
    if torch.distributed.get_rank() == 0:
        np.savez(f"{output}.npz", order=order, features=features, **dict(zip("ab", gathered, strict=True)))


@pytest.mark.distributed
def test_two_processes_share_the_records_of_the_probe(shards, splits, simulated_cache, tmp_path):
    places = (str(shards), str(simulated_cache), str(tmp_path / "two"))
    processes = launch_forked(tmp_path / "two", features_in_two_processes, *places)
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    two = np.load(tmp_path / "two.npz")
    # The batches that fill up the last one of both processes are read by both.
    assert len({*two["a"]} & {*two["b"]}) <= 8 and {*two["a"]} | {*two["b"]} == {*splits["train"]["ecg_id"]}
    order, features = features_of(splits, tmp_path / "one")
    assert sorted(order) == sorted(two["order"]) and order != two["order"].tolist()
    np.testing.assert_allclose(features[np.argsort(order)], two["features"][np.argsort(two["order"])], atol=1e-6)


def test_the_command_line_trains_from_a_store(shards, tmp_path, capsys):
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/labelled", recursive=True)
    path = "memory://labelled" if memory.exists(f"/labelled/{MANIFEST}") else f"memory://labelled/{shards.name}"
    for part in (small_model(), extractor()):
        part.save_pretrained(tmp_path / "model")
    common = ["--data_dir", path, "--streaming", "true", "--cache_dir", str(tmp_path / "cache"), "--use_cpu", "true"]
    common += ["--num_bootstrap_resamples", "10"]
    argv = [*common, "--model_name_or_path", str(tmp_path / "model"), "--output_dir", str(tmp_path / "run")]
    argv += ["--max_steps", "1", "--probe_num_train_epochs", "1", "--disable_tqdm", "true"]
    assert cli.train([*argv, "--dry_run", "true"]) == {} and "simulated ECGs: 5 labels" in capsys.readouterr().err
    results = cli.train(argv)
    assert np.isfinite(results["test_macro_auroc"])
    recipe = (tmp_path / "run/recipe.yaml").read_text()
    assert "streaming: true" in recipe and "task: superdiagnostic" in recipe
    card = (tmp_path / "run/README.md").read_text()
    assert "--data_dir path/to/shards" in card and "`superdiagnostic`" in card
    argv = [*common, "--model_name_or_path", str(tmp_path / "run"), "--output_dir", str(tmp_path / "report")]
    assert cli.evaluate([*argv, "--report", "false"])["macro_auroc"] == results["test_macro_auroc"]
    memory.rm("/labelled", recursive=True)


def test_a_new_model_is_normalised_as_without_shards(splits, simulated_splits):
    arguments = [TaskArguments(demo=True), TaskArguments(data_dir="shards", streaming=True, task="superdiagnostic")]
    extractors = [
        load_model(ModelArguments(architecture="ptbxl_100hz"), args, records["train"])[1]
        for args, records in zip(arguments, (simulated_splits, splits), strict=True)
    ]
    assert extractors[0].to_dict() == extractors[1].to_dict()


def test_leaks_are_seen_without_signals(splits, tmp_path, monkeypatch):
    train, warned = splits["train"], []
    copies = train.select(range(4)).materialised(tmp_path)
    monkeypatch.setattr(checks.logger, "warning", warned.append)
    monkeypatch.setattr(LabelledShards, "_read", lambda self, shard: pytest.fail("a shard was read"))
    checks.warn_of_leaks({"train": train.select(range(60)), "test": copies}, label_names_of(train))
    assert any("4 recordings are there under more than one id" in text for text in warned)
