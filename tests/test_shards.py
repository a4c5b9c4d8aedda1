"""Records in Parquet shards: what `ecg-hf prepare` writes, goes on with and refuses; training that streams them."""

import json
import pathlib
import shutil

import datasets
import fsspec
import numpy as np
import pandas as pd
import pytest
import torch
from forked import launch_forked
from fsspec.asyn import AsyncFileSystem
from small_models import stopped_at
from test_distributed import steps_of
from test_pretraining import Killed, make_trainer, own_records, weights_of
from test_seen_folds import challenge_copy

from ecg_hf import cli
from ecg_hf.pretraining import prepare as prepare_module
from ecg_hf.pretraining.run import RecordArguments, load_training_records
from ecg_hf.runs.shards import MANIFEST, ShardedRecords, ShardSampler

SIZE = 20
COLUMNS = ["ecg_id", "patient_id", "sampling_rate", "lead_names", "signal"]


def prepare(output, **flags) -> dict:
    argv = ["--output_dir", str(output)]
    for name, value in flags.items():
        argv += [f"--{name}", *([] if value is True else [str(value)])]
    return cli.prepare(argv)


@pytest.fixture(scope="module")
def shards(simulated_folder, tmp_path_factory):
    """The simulated PTB-XL in shards of 20 records: seven for training, one each for validation and test."""
    output = tmp_path_factory.mktemp("shards") / "ptbxl"
    prepare(output, data_dir=simulated_folder, shard_size=SIZE)
    return output


@pytest.fixture(scope="module")
def records(simulated_folder, simulated_cache):
    """The same training records as Arrow files of the cache, in the same order."""
    return load_training_records(RecordArguments(data_dir=str(simulated_folder), cache_dir=simulated_cache), 2.5)


def files_of(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "data").iterdir())}


# ---- Writing ----


def test_shards_hold_the_records_of_the_cache(shards, records):
    streamed = ShardedRecords(shards)
    assert streamed.sizes == [20] * 6 + [8] and streamed[:].to_pylist() == records.select_columns(COLUMNS).to_list()
    manifest = json.loads((shards / MANIFEST).read_text())
    assert manifest["num_records"] == 160 and manifest["shortest_seconds"] == 10
    assert {name: split["num_records"] for name, split in manifest["splits"].items()} == {
        "train": 128,
        "validation": 16,
        "test": 16,
    }
    assert not (shards / "unfinished").exists()
    raw = 160 * 12 * 1000 * 2
    assert sum(map(len, files_of(shards).values())) < 1.1 * raw


def test_the_datasets_library_reads_them(shards, records, tmp_path):
    found = datasets.load_dataset("parquet", data_dir=str(shards / "data"), split="train", cache_dir=str(tmp_path))
    assert found.to_list() == records.select_columns(COLUMNS).to_list()


def test_several_processes_write_the_same_bytes(shards, simulated_folder, tmp_path):
    prepare(tmp_path / "two", data_dir=simulated_folder, shard_size=SIZE, num_proc=2)
    assert files_of(tmp_path / "two") == files_of(shards)


def test_a_stopped_command_goes_on_with_what_is_missing(shards, simulated_folder, tmp_path, monkeypatch):
    output, read, seen = tmp_path / "out", prepare_module.usable_record, []

    def read_some(source, row):
        seen.append(source.name(row))
        if len(seen) == 70:
            raise KeyboardInterrupt
        return read(source, row)

    monkeypatch.setattr(prepare_module, "usable_record", read_some)
    with pytest.raises(KeyboardInterrupt):
        prepare(output, data_dir=simulated_folder, shard_size=SIZE)
    assert not (output / MANIFEST).exists() and len(files_of(output)) == 3
    with pytest.raises(FileNotFoundError, match=f"no `{MANIFEST}`.*goes on with one that was interrupted"):
        ShardedRecords(output)
    seen[:] = [None] * 100  # past the place of the stop
    prepare(output, data_dir=simulated_folder, shard_size=SIZE)
    assert len(seen) - 100 == 160 - 3 * SIZE and files_of(output) == files_of(shards)
    prepare(output, data_dir=simulated_folder, shard_size=SIZE)
    assert len(seen) - 100 == 160 - 3 * SIZE  # nothing was read
    with pytest.raises(FileExistsError, match="shards of other records or settings"):
        prepare(output, data_dir=simulated_folder, shard_size=SIZE + 1)
    next(output.rglob("train-*.parquet")).unlink()
    (output / "data/train-00000-of-00099.parquet").write_bytes(b"")  # of a call with other settings that was stopped
    prepare(output, data_dir=simulated_folder, shard_size=SIZE)
    assert files_of(output) == files_of(shards)
    (output / MANIFEST).write_text("{")
    with pytest.raises(ValueError, match="is not whole JSON"):
        prepare(output, data_dir=simulated_folder, shard_size=SIZE)


def test_of_a_table_patients_splits_and_skipped_records_are_kept(tmp_path, caplog):
    folder = own_records(tmp_path / "own", 12)
    names = sorted(path.stem for path in folder.glob("*.hea"))
    (folder / f"{names[5]}.dat").write_bytes(b"")
    table = {"path": names, "patient": [f"p{row // 2}" for row in range(12)]}
    table["split"] = ["train"] * 8 + ["validation"] * 2 + ["test"] * 2
    pd.DataFrame(table).to_csv(folder / "ecgs.csv", index=False)
    given = {"table": folder / "ecgs.csv", "patient_column": "patient", "shard_size": 5}
    with pytest.raises(ValueError, match=rf"1% of the 12 records cannot be used(?s:.)*{names[5]}"):
        prepare(tmp_path / "out", split_column="split", **given)
    manifest = prepare(tmp_path / "out", split_column="split", max_skipped=0.1, **given)
    assert names[5] in caplog.text and names[5] in (tmp_path / "out-skipped.txt").read_text()
    assert manifest["num_skipped"] == 1 and str(tmp_path) not in (tmp_path / "out" / MANIFEST).read_text()
    train = ShardedRecords(tmp_path / "out")
    assert train.num_patients == 4 and train.sizes == [5, 2]
    assert train[:]["patient_id"].to_pylist() == [0, 0, 1, 1, 2, 3, 3]
    assert len(ShardedRecords(tmp_path / "out", "test")) == 2
    prepare(tmp_path / "all", max_skipped=0.1, **given)
    with pytest.raises(FileExistsError, match="shards of other records or settings"):
        prepare(tmp_path / "all", split_column="split", max_skipped=0.1, **given)
    with pytest.raises(FileExistsError, match="ecgs.csv` is a file: choose another"):
        prepare(folder / "ecgs.csv", **given)


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"shard_size": 0}, "`shard_size` must be at least 1"),
        ({"min_seconds": 0}, "`min_seconds` must be above 0"),
        ({"split_column": "split"}, "is a column of `--table`"),
        ({"min_seconds": 11}, "cannot be used(?s:.)*it has 10 s, wanted are 11 s"),
        ({"num_proc": 0}, "`num_proc` must be at least 1"),
        ({"data_dir": None}, "Give `--data_dir`"),
    ],
)
def test_what_cannot_be_prepared_is_refused(simulated_folder, tmp_path, flags, message):
    flags = {name: value for name, value in {"data_dir": simulated_folder, **flags}.items() if value is not None}
    with pytest.raises(ValueError, match=message):
        prepare(tmp_path / "out", **flags)
    assert not (tmp_path / "out" / MANIFEST).exists()


def test_test_folds_are_refused_by_the_writer_and_by_the_reader(simulated_folder, tmp_path):
    copy = challenge_copy(simulated_folder, tmp_path / "copy", wanted=[10])
    with pytest.raises(ValueError, match="of fold 10"):
        prepare(tmp_path / "out", data_dir=copy, ptbxl_dir=simulated_folder)
    prepare(tmp_path / "all", data_dir=simulated_folder, allow_test_folds=True)
    with pytest.raises(ValueError, match="of fold 10"):
        load_training_records(RecordArguments(data_dir=str(tmp_path / "all"), streaming=True), 2.5)
    arguments = RecordArguments(data_dir=str(tmp_path / "all"), streaming=True, allow_test_folds=True)
    assert len(load_training_records(arguments, 2.5)) == 160


# ---- The order ----


@pytest.mark.parametrize("streams", [1, 2, 3, 8])
def test_an_epoch_has_each_record_once_and_each_stream_few_shards(streams):
    sizes, batch = [7, 10, 3, 10, 10, 9, 10, 1], 3
    sampler = ShardSampler(sizes, 0, batch, streams, buffer=2)
    shard_of = np.repeat(np.arange(len(sizes)), sizes)
    orders = []
    for epoch in (0, 1, 0):
        sampler.set_epoch(epoch)
        keys = list(sampler)
        assert {epoch for epoch, _ in keys} == {epoch} and sorted(row for _, row in keys) == list(range(sum(sizes)))
        orders.append([row for _, row in keys])
    assert orders[0] == orders[2] != orders[1]
    filled = sum(sizes) // streams // batch * batch
    turns = np.array(orders[0][: filled * streams]).reshape(-1, streams, batch)
    for stream in range(streams):
        shards = shard_of[turns[:, stream].reshape(-1)]
        borders = np.flatnonzero(np.diff([*map(int, shards), -1]))  # a shard is left for good when its buffer is empty
        last = {shard: place for place, shard in enumerate(shards)}
        first = {shard: place for place, shard in reversed(list(enumerate(shards)))}
        held = [sum(first[shard] <= place <= last[shard] for shard in first) for place in borders]
        assert max(held) <= 2
    if streams == 1:
        assert orders[0][:17] != sorted(orders[0][:17])


def test_reading_in_that_order_loads_each_shard_once(shards):
    records = ShardedRecords(shards, num_held=2)
    read, loaded = records._read, []
    records._read = lambda shard: (loaded.append(shard["file"]), read(shard))[1]
    order = [row for _, row in ShardSampler(records.sizes, 3, 16, 1, 2)]
    for start in range(0, 128, 16):
        rows = order[start : start + 16]
        assert records[rows]["ecg_id"].to_pylist() == ShardedRecords(shards)[:].take(rows)["ecg_id"].to_pylist()
    assert sorted(loaded) == sorted(shard["file"] for shard in records.shards)


# ---- Reading ----


def test_shards_are_read_from_a_store(shards):
    memory = fsspec.filesystem("memory")
    memory.put(str(shards), "/store", recursive=True)
    path = "memory://store" if memory.exists(f"/store/{MANIFEST}") else f"memory://store/{shards.name}"
    assert ShardedRecords(path)[:].equals(ShardedRecords(shards)[:])
    assert ShardedRecords(path, max_records=30).sizes == [20, 10]
    memory.rm("/store", recursive=True)


class StoreOfFiles(AsyncFileSystem):
    """Files of this machine, by a thread with a loop, as `s3fs` and `gcsfs` read their stores."""

    protocol = "filestore"

    async def _cat_file(self, path, start=None, end=None, **kwargs):
        return pathlib.Path(path).read_bytes()


def test_workers_stream_from_a_store_whose_connections_no_fork_can_use(shards, tmp_path):
    fsspec.register_implementation("filestore", StoreOfFiles, clobber=True)
    fields = {"per_device_train_batch_size": 16, "max_steps": 3}
    trained = {}
    for path, workers in ((str(shards), 0), (f"filestore://{shards}", 1)):
        trainer = make_trainer(ShardedRecords(path), tmp_path / str(workers), dataloader_num_workers=workers, **fields)
        trainer.pretrain()
        trained[workers] = steps_of(trainer)
    assert trained[1] == trained[0] and len(trained[1]) == 3


def damaged(shards, folder, kind) -> pathlib.Path:
    shutil.copytree(shards, folder)
    manifest = json.loads((folder / MANIFEST).read_text())
    file = folder / manifest["splits"]["train"]["shards"][0]["file"]
    if kind == "cut":
        file.write_bytes(file.read_bytes()[:-9])
    elif kind == "bit":
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)
    elif kind == "version":
        (folder / MANIFEST).write_text(json.dumps(manifest | {"version": 99}))
    elif kind == "text":
        (folder / MANIFEST).write_text("{")
    else:
        file.unlink()
    return folder


@pytest.mark.parametrize(
    "kind, error, message",
    [
        ("cut", ValueError, "train-00000-of-00007.parquet of .* bytes, the manifest says .*copy the folder again"),
        ("bit", ValueError, "train-00000-of-00007.parquet of .* has other bytes than the manifest says"),
        ("version", ValueError, "must be of version 1"),
        ("text", ValueError, "is not JSON"),
        ("gone", FileNotFoundError, "train-00000-of-00007.parquet of .* is missing: copy the folder again"),
    ],
)
def test_damaged_shards_are_named(shards, tmp_path, kind, error, message):
    with pytest.raises(error, match=message):
        ShardedRecords(damaged(shards, tmp_path / "copy", kind))[:]


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"data_dir": None}, "`--streaming` needs `--data_dir`"),
        ({"units": "mV"}, "`--units` is for `ecg-hf prepare`"),
        ({"num_proc": 2}, "`--num_proc` is for `ecg-hf prepare`"),
        ({"max_skipped": 0.5}, "`--max_skipped` is for `ecg-hf prepare`"),
        ({"shuffle_shards": 0}, "`shuffle_shards` must be at least 1"),
    ],
)
def test_arguments_that_shards_do_not_take_are_refused(shards, flags, message):
    with pytest.raises(ValueError, match=message):
        RecordArguments(**{"data_dir": str(shards), "streaming": True, **flags})


def test_shards_of_shorter_records_than_a_crop_are_refused(shards):
    with pytest.raises(ValueError, match="have records of 10 s, a crop has 12 s"):
        load_training_records(RecordArguments(data_dir=str(shards), streaming=True), 12)


# ---- Training ----

FIELDS = {"per_device_train_batch_size": 16, "save_strategy": "steps", "save_steps": 3}


def test_streamed_records_train_as_those_of_the_cache_in_the_same_order(shards, records, tmp_path):
    streamed = make_trainer(ShardedRecords(shards), tmp_path / "streamed", **FIELDS)
    streamed.pretrain()
    cached = make_trainer(records, tmp_path / "cached", **FIELDS)
    cached.training_sampler = lambda num_records, batch_size: streamed.training_sampler(num_records, batch_size)
    cached.pretrain()
    assert steps_of(streamed) == steps_of(cached) and len(steps_of(cached)) == 16


@pytest.mark.parametrize("workers", [0, 2])
def test_a_killed_stream_goes_on_at_the_same_record(shards, tmp_path, workers):
    fields = {**FIELDS, "dataloader_num_workers": workers, "num_train_epochs": 1}
    make_trainer(ShardedRecords(shards), tmp_path / "alone", **fields).pretrain()
    with stopped_at(trainer := make_trainer(ShardedRecords(shards), tmp_path / "killed", **fields), 5, Killed):
        trainer.pretrain()
    if workers:
        other = make_trainer(ShardedRecords(shards), tmp_path / "killed", **{**fields, "dataloader_num_workers": 0})
        with pytest.raises(ValueError, match="2 shards at a time by 2 workers"):
            other.pretrain(resume_from_checkpoint=True)
    make_trainer(ShardedRecords(shards), tmp_path / "killed", **fields).pretrain(resume_from_checkpoint=True)
    first, second = weights_of(tmp_path / "alone"), weights_of(tmp_path / "killed")
    assert all(torch.equal(first[name], second[name]) for name in first)


def stream_in_two_processes(shards, output):
    trainer = make_trainer(ShardedRecords(shards), output, **FIELDS)
    assert trainer.args.world_size == 2
    crops, read = trainer.training_windows(trainer.train_dataset), []
    trainer.training_windows = lambda dataset: crops
    make = type(crops).__getitems__

    def watched(self, keys):
        batch = make(self, keys)
        read.append([keys[0][0], sorted(set(batch["record_ids"].tolist()))])
        return batch

    type(crops).__getitems__ = watched
    trainer.pretrain()
    gathered = [None, None]
    torch.distributed.all_gather_object(gathered, read)
    if trainer.is_world_process_zero():
        pathlib.Path(output + ".json").write_text(json.dumps(gathered))


@pytest.mark.distributed
def test_two_processes_share_the_records_of_each_epoch(shards, records, tmp_path):
    processes = launch_forked(tmp_path / "two", stream_in_two_processes, str(shards), str(tmp_path / "two"))
    assert [process.wait() for process in processes] == [0, 0], [process.stderr[-2000:] for process in processes]
    gathered = json.loads((tmp_path / "two.json").read_text())
    for epoch in (0, 1):
        parts = [[ecg_id for at, ids in read if at == epoch for ecg_id in ids] for read in gathered]
        assert [len(part) for part in parts] == [64, 64]
        assert sorted(parts[0] + parts[1]) == sorted(records["ecg_id"])


def test_the_command_line_streams(shards, tmp_path, capsys):
    argv = ["--data_dir", str(shards), "--streaming", "true", "--output_dir", str(tmp_path / "run")]
    argv += ["--max_steps", "2", "--per_device_train_batch_size", "32", "--use_cpu", "true", "--disable_tqdm", "true"]
    results = cli.pretrain([*argv, "--attn_implementation", "eager", "--architecture", "ptbxl_100hz"])
    assert results["num_records"] == 128
    metrics = json.loads((tmp_path / "run/metrics.json").read_text())
    assert metrics["data"] == json.loads((shards / MANIFEST).read_text())["data"] | metrics["data"]
    assert metrics["data"]["name"] == "simulated ECGs"
    assert "streaming: true" in (tmp_path / "run/recipe.yaml").read_text()
    assert "--config recipe.yaml --data_dir path/to/shards --output_dir" in (tmp_path / "run/README.md").read_text()
