"""Records that are resampled and filtered once, and kept: the same windows, and never stale ones."""

import multiprocessing
import pathlib
import shutil

import datasets
import numpy as np
import pytest
import torch
from small_models import LABELS, small_extractor, small_model, stopped_at
from test_post_training import make_trainer, same_weights, weights_of

from ecg_hf import ECGTransformerForMultiLabel
from ecg_hf.cli import main
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.signal_steps_ecg_transformer import resample, resample_in_blocks
from ecg_hf.pretraining.crops import Augmentation, Crops
from ecg_hf.runs import prepared
from ecg_hf.runs.windows import EvaluationWindows, TrainingWindows
from ecg_hf.synthetic import simulate_ecg, simulate_ptbxl

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

TOLERANCE = 1e-3  # mV


def record(index: int, rate: int = 500, seconds: float = 10, leads=LEAD_NAMES, **columns) -> dict:
    rng = np.random.default_rng(index)
    signal = simulate_ecg(["NORM"], sampling_rate=rate, rng=rng)
    signal = np.tile(signal, -(-int(seconds * rate) // signal.shape[1]))[:, : int(seconds * rate)]
    signal = signal[[LEAD_NAMES.index(name) for name in leads]]
    row = {"ecg_id": index, "patient_id": index, "signal": signal.reshape(-1), "sampling_rate": float(rate)}
    return {**row, "lead_names": list(leads), "labels": [1.0, 0.0, 0.0, 0.0, float(index % 2)], **columns}


def table(rows) -> datasets.Dataset:
    kinds = datasets.Features(
        {
            "ecg_id": datasets.Value("int64"),
            "patient_id": datasets.Value("int64"),
            "signal": datasets.List(datasets.Value(str(rows[0]["signal"].dtype))),
            "sampling_rate": datasets.Value("float64"),
            "lead_names": datasets.List(datasets.Value("string")),
            "labels": datasets.List(datasets.Value("float32")),
        }
    )
    return datasets.Dataset.from_list(rows, features=kinds)


@pytest.fixture(scope="module")
def records():
    return table([record(index) for index in range(6)])


def millivolts(**fields):
    """An extractor whose windows are in mV."""
    return small_extractor(**{"std": 1.0, **fields})


def both(kind, dataset, extractor, cache, keys, **kwargs):
    """The batches of the plain way and of prepared records."""
    windows = kind(dataset, extractor, cache_dir=cache, silent=True, **kwargs)
    return kind(dataset, extractor, **kwargs).__getitems__(keys), windows.__getitems__(keys), windows.prepared


def assert_close(plain, ready, tolerance=TOLERANCE):
    assert plain.keys() == ready.keys()
    for name, values in plain.items():
        assert values.shape == ready[name].shape and values.dtype == ready[name].dtype
        torch.testing.assert_close(ready[name], values, atol=tolerance if name == "input_values" else 0, rtol=0)


EXTRACTORS = {
    "500 to 100 Hz": {},
    "500 to 250 Hz": {"sampling_rate": 250},
    "band-pass": {"bandpass": [0.5, 40]},
    "band-pass alone": {"sampling_rate": 500, "bandpass": [0.5, 40]},
    "low-pass by FIR": {"bandpass": [None, 40], "bandpass_fir_seconds": 0.5},
    "band-pass before": {"bandpass": [0.5, 40], "steps": ["leads", "bandpass", "resample", "windows"]},
    "linear": {"resample_method": "linear"},
    "fourier": {"resample_method": "fourier"},
    "decimate": {"decimation": 5, "steps": ["leads", "resample", "decimate", "windows", "normalize"]},
    "decimate windows": {"decimation": 2, "steps": ["leads", "resample", "windows", "decimate"]},
    "other leads": {"lead_names": ["V1", "II"]},
    "lead tokens": {"lead_tokens": True},
}


@pytest.mark.parametrize("way", EXTRACTORS)
def test_prepared_records_give_the_windows_and_crops_of_the_plain_way(records, tmp_path, way):
    extractor = millivolts(**EXTRACTORS[way])
    plain, ready, found = both(TrainingWindows, records, extractor, tmp_path, [(0, 3), (2, 1), (7, 5)], seed=3)
    assert (found.rows >= 0).all()
    assert_close(plain, ready)
    plain, ready, _ = both(EvaluationWindows, records, extractor, tmp_path, [4, 0])
    assert_close(plain, ready)
    augmentation = Augmentation(gain=0.1)
    plain, ready, _ = both(Crops, records, extractor, tmp_path, [(1, 2)], augmentation=augmentation, seed=3)
    assert_close(plain, ready, 2 * TOLERANCE)
    assert len(list(tmp_path.rglob("*.arrow"))) == 1  # shared by all three


def test_what_rounds_to_float16_is_kept_as_it_is(records, tmp_path):
    extractor = small_extractor(round_to_float16=True)
    plain, ready, found = both(TrainingWindows, records, extractor, tmp_path, [(0, 3), (2, 1)], seed=3)
    assert (found.rows >= 0).all()
    assert torch.equal(plain["input_values"], ready["input_values"])
    extractor = small_extractor(round_to_float16=True, bandpass=[0.5, 40])
    plain, ready, found = both(TrainingWindows, records, extractor, tmp_path, [(0, 3), (2, 1)], seed=3)
    assert found is None and torch.equal(plain["input_values"], ready["input_values"])


SCALED = {
    "z-score of windows": (["leads", "resample", "windows", "zscore"], None),
    "band-pass of windows": (["leads", "resample", "windows", "bandpass", "zscore"], [0.5, 40]),
    "z-score of records": (["leads", "resample", "zscore", "windows"], None),
    "min-max of records": (["leads", "bandpass", "resample", "minmax", "windows"], [0.5, 40]),
}


@pytest.mark.parametrize("way", SCALED)
@pytest.mark.filterwarnings("ignore:Flat leads")
def test_what_is_scaled_by_itself_is_close_and_flat_leads_stay_flat(tmp_path, way):
    rows = [record(index, leads=LEAD_NAMES[6:]) for index in range(4)]
    signals = [row["signal"].reshape(6, -1) for row in rows]
    signals[1][2, 1000:4000] = 77  # the lead has come off
    signals[2][3] = 77
    signals[3][4] = np.random.default_rng(0).integers(-1, 2, 5000)  # noise, of which a filter leaves next to nothing
    steps, bandpass = SCALED[way]
    extractor = small_extractor(steps=steps, bandpass=bandpass, lead_names=LEAD_NAMES[6:])
    plain, ready, found = both(EvaluationWindows, table(rows), extractor, tmp_path, range(4))
    expected, given = plain["input_values"], ready["input_values"]
    torch.testing.assert_close(given, expected, atol=0.02, rtol=0)
    assert torch.equal((given == given[..., :1]).all(dim=-1), (expected == expected[..., :1]).all(dim=-1))
    of_windows = steps[-1] == "zscore"
    assert (found.rows >= 0).tolist() == [True, not of_windows, True, False]
    assert torch.equal(given[3], expected[3])


def test_mixed_rates_long_records_and_absent_leads_keep_their_order(tmp_path):
    rows = [
        record(0),
        record(1, rate=100),
        record(2, rate=257, seconds=7.3),
        record(3, rate=500, seconds=130),
        record(4, leads=LEAD_NAMES[:2]),
        record(5, seconds=1.5),
    ]
    for extractor in (millivolts(), millivolts(bandpass=[0.5, 40]), millivolts(return_attention_mask=True)):
        with pytest.warns(UserWarning, match="V1 V2 V3 V4 V5 V6 are missing"):
            plain, ready, found = both(EvaluationWindows, table(rows), extractor, tmp_path, [3, 5, 1, 0, 4, 2])
        assert_close(plain, ready)
        # Nothing is to be done at 100 Hz, and long records are kept only where a filter reads all of them.
        expected = [True] * 6 if extractor.bandpass else [True, False, True, False, True, True]
        assert (found.rows >= 0).tolist() == expected
        keys = [(4, index) for index in (3, 1, 0, 2)]
        plain, ready, _ = both(TrainingWindows, table(rows), extractor, tmp_path, keys, seed=0)
        assert_close(plain, ready)


def test_half_an_hour_takes_no_room(tmp_path):
    dataset = table([record(0), record(1, rate=257, seconds=1800, leads=["II"])])
    windows = TrainingWindows(dataset, small_extractor(lead_names=["II"]), seed=0, cache_dir=tmp_path, silent=True)
    assert windows.prepared.rows.tolist() == [0, -1]
    assert sum(path.stat().st_size for path in tmp_path.rglob("*.arrow")) < 100_000


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32"])
def test_other_units_and_types(tmp_path, dtype):
    rows = [record(index) for index in range(3)]
    for row in rows:
        row["signal"] = (row["signal"] / (1 if dtype == "int32" else 1000)).astype(dtype)
    units = "uV" if dtype == "int32" else None
    plain, ready, found = both(EvaluationWindows, table(rows), millivolts(), tmp_path, [2, 0], units=units)
    assert (found.rows >= 0).all()
    assert_close(plain, ready)


def test_units_that_differ_by_row(tmp_path):
    rows = [record(index) for index in range(3)]
    rows[1]["signal"] = rows[1]["signal"] / 1000
    for row in rows:
        row["signal"] = row["signal"].astype("float32")
    dataset = table(rows).add_column("units", ["uV", None, "uV"])
    plain, ready, _ = both(EvaluationWindows, dataset, millivolts(), tmp_path, [2, 1, 0])
    assert_close(plain, ready)


def test_a_record_that_a_filter_takes_out_of_range_is_not_clipped(tmp_path):
    rows = [record(0), record(1)]
    step = np.where(np.arange(5000) % 1000 < 500, 32000, -32000).astype("int16")
    rows[1]["signal"] = np.tile(step, 12)
    plain, ready, found = both(EvaluationWindows, table(rows), millivolts(), tmp_path, [0, 1])
    assert found.rows.tolist()[1] < 0 <= found.rows.tolist()[0]
    assert float(plain["input_values"].abs().max()) > 32.767
    assert_close(plain, ready)


# ---- What there is nothing to do for ----


def test_without_resampling_and_filter_all_is_as_it_was(simulated_splits, tmp_path):
    keys = [(0, 3), (2, 1)]
    plain, ready, found = both(TrainingWindows, simulated_splits["train"], small_extractor(), tmp_path, keys, seed=3)
    assert found is None and not list(tmp_path.iterdir())
    assert all(torch.equal(values, ready[name]) for name, values in plain.items())


# ---- The cache ----


def prepare_counting(monkeypatch, dataset, cache, **fields) -> int:
    """How many records are prepared, and not found."""
    counts = []
    prepare = prepared._prepared

    def counting(rows, *args):
        counts.append(len(rows))
        return prepare(rows, *args)

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_prepared", counting)
        TrainingWindows(dataset, small_extractor(**fields), seed=0, cache_dir=cache, silent=True)
    return sum(counts)


def test_rows_are_found_by_their_content(monkeypatch, records, tmp_path):
    assert prepare_counting(monkeypatch, records, tmp_path) == 6
    assert prepare_counting(monkeypatch, records, tmp_path) == 0
    other_task = records.select([5, 2, 3]).map(lambda row: {"ecg_id": row["ecg_id"] + 100, "labels": [0.0]})
    assert prepare_counting(monkeypatch, other_task, tmp_path) == 0
    # What comes after the windows are cut, and how long these are, plays no part.
    assert prepare_counting(monkeypatch, records, tmp_path, num_samples=200, mean=0.1, std=2.0, clip=3.0) == 0
    rows = records.to_list()
    for row in rows:
        row["signal"] = np.array(row["signal"], dtype="int16")
    rows[2]["signal"][17] += 1
    rows[4]["sampling_rate"] = 499.0
    rows[5]["lead_names"] = rows[5]["lead_names"][::-1]
    changed = table(rows)
    assert prepare_counting(monkeypatch, changed, tmp_path) == 3
    plain, ready, _ = both(EvaluationWindows, changed, millivolts(), tmp_path, range(6))
    assert_close(plain, ready)


@pytest.mark.parametrize(
    "fields",
    [
        {"sampling_rate": 125},
        {"bandpass": [0.5, 40]},
        {"bandpass": [0.5, 41]},
        {"bandpass": [0.5, 40], "bandpass_order": 3},
        {"resample_method": "linear"},
        {"lead_names": ["II", "V1"]},
        {"decimation": 2, "steps": ["leads", "resample", "decimate", "windows"]},
        {"round_to_float16": True},
        {"steps": ["leads", "resample", "windows", "zscore"]},
    ],
)
def test_other_numbers_of_the_extractor_give_other_rows(monkeypatch, records, tmp_path, fields):
    prepare_counting(monkeypatch, records, tmp_path)
    assert prepare_counting(monkeypatch, records, tmp_path, **fields) == 6
    assert prepare_counting(monkeypatch, records, tmp_path, **fields) == 0


def test_a_build_that_stops_goes_on_where_it_was(monkeypatch, records, tmp_path):
    monkeypatch.setattr(prepared, "RECORDS_PER_FILE", 2)
    prepare, calls = prepared._prepared, []

    def stopping(*args):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return prepare(*args)

    with monkeypatch.context() as patch:
        patch.setattr(prepared, "_prepared", stopping)
        with pytest.raises(KeyboardInterrupt):
            TrainingWindows(records, small_extractor(), seed=0, cache_dir=tmp_path, silent=True)
    assert sorted(path.suffix for path in tmp_path.rglob("*") if path.is_file()) == ["", ".arrow", ".arrow"]
    assert prepare_counting(monkeypatch, records, tmp_path) == 2
    plain, ready, _ = both(EvaluationWindows, records, millivolts(), tmp_path, range(6))
    assert_close(plain, ready)


def _build(folder):
    dataset = table([record(index) for index in range(6)])
    TrainingWindows(dataset, small_extractor(), seed=0, cache_dir=folder, silent=True)


def test_processes_prepare_once(tmp_path):
    processes = [multiprocessing.get_context("fork").Process(target=_build, args=(tmp_path,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    paths = list(tmp_path.rglob("*.arrow"))
    assert [len(datasets.Dataset.from_file(str(path))) for path in paths] == [6]


def test_a_faulty_record_is_named_before_training(records, tmp_path):
    rows = records.to_list()
    for row in rows:
        row["signal"] = np.array(row["signal"], dtype="float32") / 1000
    rows[3]["signal"][5] = np.nan
    with pytest.raises(ValueError, match=r"Among the records \[0, 1, 2, 3, 4, 5\], .*Record 3 has missing samples"):
        TrainingWindows(table(rows), small_extractor(), seed=0, cache_dir=tmp_path, silent=True)
    with pytest.raises(ValueError, match="too short for `bandpass`"):
        extractor = small_extractor(bandpass=[0.5, 40])
        TrainingWindows(table([record(0, seconds=0.05)]), extractor, seed=0, cache_dir=tmp_path, silent=True)


def test_a_cache_that_cannot_be_written_is_named(monkeypatch, records, tmp_path):
    def refuse(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(PermissionError, match="cannot be written to .*--prepare_records false"):
        TrainingWindows(records, small_extractor(), seed=0, cache_dir=tmp_path / "cache", silent=True)


def test_a_cache_that_holds_all_need_not_be_written(monkeypatch, records, tmp_path):
    TrainingWindows(records, small_extractor(), seed=0, cache_dir=tmp_path, silent=True)
    monkeypatch.setattr(prepared, "FileLock", None)
    TrainingWindows(records, small_extractor(), seed=0, cache_dir=tmp_path, silent=True)


# ---- Runs ----


@pytest.fixture(scope="module")
def splits():
    parts = {"train": range(12), "validation": range(12, 18), "test": range(18, 24)}
    return {name: table([record(index) for index in indices]) for name, indices in parts.items()}


def test_a_run_takes_prepared_records_and_its_final_metrics_are_of_the_records_themselves(splits, tmp_path):
    fields = {"num_train_epochs": 1, "metric_for_best_model": "loss"}
    runs = {}
    for name, more in (("once", {}), ("found", {}), ("plain", {"prepare_records": False})):
        cache = str(tmp_path / ("none" if name == "plain" else "cache"))
        trainer = make_trainer(splits, tmp_path / name, prepared_cache=cache, **fields, **more)
        runs[name] = trainer.post_train()
    weights = {name: weights_of(tmp_path / name) for name in runs}
    assert same_weights(weights["once"], weights["found"])
    assert not same_weights(weights["once"], weights["plain"])
    for name, values in weights["plain"].items():
        torch.testing.assert_close(weights["once"][name], values, atol=1e-3, rtol=0)
    rows = [len(datasets.Dataset.from_file(str(path))) for path in (tmp_path / "cache").rglob("*.arrow")]
    assert sum(rows) == 18  # the test is read once
    assert not (tmp_path / "none").exists()
    model = ECGTransformerForMultiLabel.from_pretrained(tmp_path / "once")
    evaluated = make_trainer(splits, tmp_path / "other", model=model).predict(splits["test"])
    table_of_run = np.loadtxt(tmp_path / "once/test_predictions.csv", delimiter=",", skiprows=1)
    scores = 1 / (1 + np.exp(-evaluated.predictions.astype(np.float64)))
    np.testing.assert_allclose(table_of_run[:, 1 : 1 + len(LABELS)], scores, rtol=1e-12)


def test_a_run_that_lost_the_cache_is_resumed_bit_identically(splits, tmp_path):
    def trainer(name):
        fields = {"num_train_epochs": 3, "stages": ["finetune"], "metric_for_best_model": "loss"}
        return make_trainer(splits, tmp_path / name, prepared_cache=str(tmp_path / "cache"), **fields)

    trainer("whole").post_train()
    with stopped_at(stopped := trainer("stopped"), 2):
        stopped.post_train()
    shutil.rmtree(tmp_path / "cache")
    trainer("stopped").post_train(resume_from_checkpoint=True)
    assert same_weights(weights_of(tmp_path / "whole"), weights_of(tmp_path / "stopped"))


def test_the_command_keeps_prepared_records_in_its_cache(tmp_path):
    simulate_ptbxl(tmp_path / "ptbxl", 100, seed=0, sampling_rates=(500,))
    small_model().save_pretrained(tmp_path / "model")
    small_extractor().save_pretrained(tmp_path / "model")
    command = ["train", "--data_dir", str(tmp_path / "ptbxl"), "--sampling_rate", "500", "--use_cpu", "true"]
    command += ["--model_name_or_path", str(tmp_path / "model"), "--max_steps", "1", "--stages", "finetune"]
    command += ["--eval_strategy", "steps", "--eval_steps", "1", "--save_strategy", "steps", "--save_steps", "1"]
    command += ["--metric_for_best_model", "loss", "--report_to", "none"]
    main([*command, "--output_dir", str(tmp_path / "run"), "--cache_dir", str(tmp_path / "cache")])
    assert list((tmp_path / "cache/ecg_prepared").rglob("*.arrow"))
    assert "prepare_records: true" in (tmp_path / "run/recipe.yaml").read_text()
    assert str(tmp_path) not in (tmp_path / "run/recipe.yaml").read_text()
    command += ["--prepare_records", "false", "--cache_dir", str(tmp_path / "other")]
    main([*command, "--output_dir", str(tmp_path / "plain")])
    assert not (tmp_path / "other/ecg_prepared").exists()


# ---- Resampling in blocks ----


@pytest.mark.parametrize(
    "rates", [(500, 100), (257, 100), (100, 500), (1000, 100), (360, 250), (128, 100), (977, 100), (500.5, 100)]
)
@pytest.mark.parametrize("length", [2, 3, 7, 101, 5003])
def test_resampling_in_blocks_is_polyphase_resampling(rates, length):
    values = np.random.default_rng(0).standard_normal((3, length)).astype(np.float32).cumsum(axis=1)
    expected = resample(values, *rates, "polyphase")
    np.testing.assert_allclose(resample_in_blocks(values, *rates), expected, atol=3e-6 * np.abs(expected).max())


def test_resampling_in_blocks_refuses_what_polyphase_resampling_refuses():
    for length, rates in ((1, (500, 100)), (5, (500, 0.001))):
        for way in (resample_in_blocks, lambda *args: resample(*args, "polyphase")):
            with pytest.raises(ValueError, match="cannot be resampled"):
                way(np.zeros((2, length), np.float32), *rates)
