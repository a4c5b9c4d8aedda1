"""Columns of any records: units, ids, empty cells, wrong types."""

import json
import warnings

import datasets
import numpy as np
import pytest
import torch
from small_models import LABELS, small_extractor
from test_post_training import make_trainer

from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.ecg_transformer.feature_extraction_ecg_transformer import ECGTransformerFeatureExtractor
from ecg_hf.post_training.evaluation import split_metrics
from ecg_hf.pretraining.crops import Augmentation, Crops, crop_statistics
from ecg_hf.runs.columns import number_of
from ecg_hf.runs.records import fingerprint_of_records
from ecg_hf.runs.statistics import lead_statistics
from ecg_hf.runs.windows import EvaluationWindows, TrainingWindows

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

COLUMNS = ["ecg_id", "patient_id", "sampling_rate", "lead_names", "labels", "signal"]


def with_signal(records, kind: str, scale: float, units=None) -> datasets.Dataset:
    """The records of `load_ptbxl` with the signal as `kind`, µV divided by `scale`, and a column `units`."""
    own = records.select_columns(COLUMNS)
    rows = own.with_format("numpy")["signal"][:] / scale
    rows = rows.round() if kind.startswith(("int", "uint")) else rows
    own = own.remove_columns("signal")
    feature = datasets.List(datasets.Value(kind))
    own = own.add_column("signal", [row.astype(kind) for row in rows], feature=feature)
    return own if units is None else own.add_column("units", [units] * len(own))


WAYS = {"float32": ("float32", 1000, None), "float64": ("float64", 1000, None)}
WAYS |= {"int32 with its unit": ("int32", 1, "uV"), "floats in uV": ("float32", 1, "uV"), "int16": ("int16", 1, None)}


@pytest.mark.parametrize("way", WAYS)
def test_every_unit_gives_the_windows_crops_and_statistics_of_load_ptbxl(simulated_splits, way):
    expected = simulated_splits["train"].select(range(20))
    own = with_signal(expected, *WAYS[way])
    for kind, keys in ((EvaluationWindows, [3, 1]), (TrainingWindows, [(0, 3), (2, 1)])):
        seed = {} if kind is EvaluationWindows else {"seed": 3}
        batches = [kind(records, small_extractor(), **seed).__getitems__(keys) for records in (expected, own)]
        torch.testing.assert_close(batches[1]["input_values"], batches[0]["input_values"], atol=1e-5, rtol=0)
    crops = [
        Crops(records, small_extractor(), Augmentation(), 0).__getitems__([(0, 1)]) for records in (expected, own)
    ]
    torch.testing.assert_close(crops[1]["input_values"], crops[0]["input_values"], atol=1e-5, rtol=0)
    np.testing.assert_allclose(lead_statistics(own, LEAD_NAMES), lead_statistics(expected, LEAD_NAMES), atol=1e-6)
    np.testing.assert_allclose(
        crop_statistics(own, small_extractor()), crop_statistics(expected, small_extractor()), atol=1e-6
    )


def test_units_may_differ_by_row_and_an_argument_decides_over_all(simulated_splits):
    expected = simulated_splits["train"].select(range(6))
    own = with_signal(expected, "float32", 1000).to_list()
    for row in own[::2]:
        row["signal"] = [1000 * value for value in row["signal"]]
    units = ["uV", None, "uV", "mV", "uV", None]
    own = datasets.Dataset.from_list([{**row, "units": unit} for row, unit in zip(own, units, strict=True)])
    batches = [EvaluationWindows(records, small_extractor()).__getitems__(range(6)) for records in (expected, own)]
    torch.testing.assert_close(batches[1]["input_values"], batches[0]["input_values"], atol=1e-5, rtol=0)
    doubtful = with_signal(expected, "int32", 1)
    batch = EvaluationWindows(doubtful, small_extractor(), units="uV").__getitems__(range(6))
    assert torch.equal(batch["input_values"], batches[0]["input_values"])
    with pytest.raises(ValueError, match="`units` must be one of mV, uV, got `kV`"):
        EvaluationWindows(doubtful, small_extractor(), units="kV")


@pytest.mark.parametrize("kind", [TrainingWindows, EvaluationWindows, Crops])
def test_a_warning_of_records_is_given_once_and_names_the_first(simulated_splits, kind):
    own = with_signal(simulated_splits["train"].select(range(12)), "float32", 1000)
    shift = {5: 2.5, 9: 0.5}  # mV
    rows = [{**row, "signal": (np.array(row["signal"]) + shift.get(n, 0)).tolist()} for n, row in enumerate(own)]
    own = datasets.Dataset.from_list(rows, features=own.features)
    more = {EvaluationWindows: {}, TrainingWindows: {"seed": 3}, Crops: {"augmentation": Augmentation(), "seed": 3}}
    windows = kind(own, small_extractor(), **more[kind])
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for epoch in range(3):
            for first in range(0, 12, 4):
                rows = range(first, first + 4)
                windows.__getitems__(rows if kind is EvaluationWindows else [(epoch, row) for row in rows])
    (warning,) = [str(each.message) for each in caught]
    assert warning.startswith(f"1 of 4 records (first: {own[5]['ecg_id']}) stay above or below 0 mV")


def test_an_extractor_of_an_older_checkpoint_trains_more_than_an_epoch(simulated_splits):
    class Older(ECGTransformerFeatureExtractor):
        def __call__(self, signal, sampling_rate, lead_names, units, crop_positions):
            known = {"sampling_rate": sampling_rate, "lead_names": lead_names, "units": units}
            return super().__call__(signal, crop_positions=crop_positions, **known)

    older = Older.from_dict(small_extractor().to_dict())
    records = simulated_splits["train"].select(range(4))
    batches = [TrainingWindows(records, extractor, seed=3) for extractor in (small_extractor(), older)]
    for epoch in range(2):
        expected, found = (windows.__getitems__([(epoch, 0), (epoch, 2)])["input_values"] for windows in batches)
        assert torch.equal(found, expected)


def test_integers_without_a_unit_are_refused(simulated_splits, tmp_path):
    splits = {name: with_signal(records, "int32", 1) for name, records in simulated_splits.items()}
    first = splits["train"][0]["ecg_id"]
    with pytest.raises(ValueError, match=rf"integers \(int32\), and nothing tells their unit for record {first}: add"):
        make_trainer(splits, tmp_path / "run").post_train()
    with pytest.raises(ValueError, match='must be "mV" or "uV"'):
        EvaluationWindows(with_signal(simulated_splits["train"], "int32", 1, "mm"), small_extractor())


def test_post_training_on_millivolts_is_post_training_on_microvolts(simulated_splits, tmp_path):
    results = []
    for name, way in (("uv", ("int16", 1)), ("mv", ("float32", 1000))):
        splits = {split: with_signal(records, *way) for split, records in simulated_splits.items()}
        trainer = make_trainer(splits, tmp_path / name, stages=["probe"])
        results.append(trainer.post_train()["test_macro_auroc"])
    assert results[0] == pytest.approx(results[1], abs=0.01)


# ---- Ids ----

IDS = {
    "text": [f"r{index:03}" for index in range(10)],
    "negative": [-5 - index for index in range(10)],
    "64 bit": [2**62 + index for index in range(10)],
    "unsigned": [2**63 + 7 + index for index in range(10)],
    "gaps": [1000 * index + 3 for index in range(10)],
}


def with_ids(records, ids, patients=None) -> datasets.Dataset:
    own = records.select(range(len(ids))).remove_columns(["ecg_id", "patient_id"])
    kind = "string" if isinstance(ids[0], str) else "uint64" if max(ids) >= 2**63 else "int64"
    own = own.add_column("ecg_id", np.array(ids) if kind == "uint64" else ids, feature=datasets.Value(kind))
    return own.add_column("patient_id", patients or list(range(len(ids))))


@pytest.mark.parametrize("kind", IDS)
def test_any_id_works_and_crops_depend_on_it_alone(simulated_splits, kind):
    own = with_ids(simulated_splits["train"], IDS[kind])
    windows = TrainingWindows(own, small_extractor(), seed=3)
    together = windows.__getitems__([(1, index) for index in range(10)])["input_values"]
    assert torch.equal(windows[1, 4]["input_values"], together[4:5])
    renamed = TrainingWindows(with_ids(own, IDS[kind][::-1]), small_extractor(), seed=3)
    assert not torch.equal(renamed.__getitems__([(1, index) for index in range(10)])["input_values"], together)
    crops = Crops(own, small_extractor(), Augmentation(noise=0.1), 3)
    batch = crops.__getitems__([(1, index) for index in range(10)])
    assert len(set(batch["record_ids"].tolist())) == 10
    alone = crops.__getitems__([(1, 4)])
    assert torch.equal(alone["input_values"], batch["input_values"][8:10])
    assert alone["record_ids"].tolist() == batch["record_ids"][8:10].tolist()
    prints = [fingerprint_of_records(own, TrainingWindows.columns) for _ in range(2)]
    assert prints[0] == prints[1]


def test_the_seeds_of_whole_numbers_are_those_of_before(simulated_splits):
    own = with_ids(simulated_splits["train"], [0, 17, 21837, 2**40])
    length = 1000 - 250 + 1
    whole = EvaluationWindows(own, small_extractor(num_samples=1000)).__getitems__(range(4))["input_values"][:, 0]
    windows = TrainingWindows(own, small_extractor(), seed=3).__getitems__([(5, index) for index in range(4)])
    for row, ecg_id in enumerate(own["ecg_id"]):
        start = int(np.random.default_rng([3, 5, ecg_id]).random() * length)
        assert torch.equal(windows["input_values"][row], whole[row, :, start : start + 250])
    batch = Crops(own, small_extractor(), Augmentation(), 3).__getitems__([(5, index) for index in range(4)])
    assert batch["record_ids"].tolist()[::2] == list(own["ecg_id"])


def test_text_ids_give_the_same_crops_in_another_process(new_process):
    code = "from ecg_hf.runs.columns import number_of; print([number_of(name) for name in ('r000', -7, 2**64)])"
    found = new_process(code).stdout
    numbers = [number_of(name) for name in ("r000", -7, 2**64)]
    assert json.loads(found) == numbers and all(0 <= number < 2**63 for number in numbers)


@pytest.mark.parametrize(
    "patients",
    [
        ["a", "a", "b", None, "", " ", "c", "c", "c", "d"],
        [1.0, 1.0, 2.0, None, float("nan"), None, 3.0, 3.0, 3.0, 4.0],
        [2**60, 2**60, 2**60 + 1, None, None, None, -3, -3, -3, -4],
    ],
)
def test_patients_may_have_any_name_and_unknown_ones_are_alone(simulated_splits, patients):
    own = with_ids(simulated_splits["train"], IDS["text"], patients)
    batch = Crops(own, small_extractor(), Augmentation(), 0).__getitems__([(0, index) for index in range(10)])
    numbers = batch["patient_ids"].tolist()[::2]
    assert [numbers.index(number) for number in numbers] == [0, 0, 2, 3, 4, 5, 6, 6, 6, 9]


def test_a_run_with_names_for_records_and_patients(simulated_splits, tmp_path):
    splits = {}
    for split, records in simulated_splits.items():
        ids = [f"{split}-{number}" for number in range(len(records))]
        splits[split] = with_ids(records, ids, [f"p{number // 2}" for number in range(len(records))])
    trainer = make_trainer(
        splits, tmp_path / "run", max_steps=1, eval_strategy="steps", eval_steps=1, save_strategy="steps", save_steps=1
    )
    trainer.post_train()
    table = (tmp_path / "run/test_predictions.csv").read_text().splitlines()
    assert table[1].startswith("test-0,") and len(table) == len(splits["test"]) + 1
    metrics = split_metrics(splits["test"], trainer.predict(splits["test"]), LABELS, 20)
    assert metrics["num_records"] == len(splits["test"])


# ---- Empty cells and wrong types ----


def rows(simulated_splits) -> list[dict]:
    return with_signal(simulated_splits["train"].select(range(4)), "float32", 1000).to_list()


@pytest.mark.parametrize(
    ("column", "value", "message"),
    [
        ("signal", None, "The column `signal` is empty .null. for record {}"),
        ("labels", None, "The column `labels` is empty .null. for record {}"),
        ("lead_names", None, "The column `lead_names` is empty .null. for record {}"),
        ("sampling_rate", None, "The column `sampling_rate` is empty .null. for record {}"),
        ("ecg_id", None, "The column `ecg_id` is empty .null. for row 2"),
        ("signal", [0.1, None] * 6000, "The column `signal` of record {} is empty .null., or has such values"),
        ("signal", [0.1] * 12001, "The column `signal` has 12001 values for record {}, .* 12 leads"),
        ("signal", [], "The column `signal` has 0 values for record {}"),
        ("lead_names", [], "The column `signal` has 12000 values for record {}, .* 0 leads"),
        ("labels", [1.0, 0.0], "The column `labels` has 2 values for record {}, 5 for others"),
    ],
)
def test_a_faulty_cell_names_column_and_record(simulated_splits, column, value, message):
    records = rows(simulated_splits)
    name = records[2]["ecg_id"]
    records[2][column] = value
    own = datasets.Dataset.from_list(records)
    with pytest.raises(ValueError, match=message.format(name)):
        EvaluationWindows(own, small_extractor()).__getitems__(range(4))


@pytest.mark.parametrize(
    ("column", "convert", "message"),
    [
        ("signal", str, "`signal` has the type string; it must be a list of numbers"),
        ("signal", lambda cell: np.array(cell).reshape(12, -1).tolist(), "`signal` has the type list.*one lead after"),
        ("sampling_rate", str, "`sampling_rate` has the type string; it must be a number in Hz"),
        ("lead_names", " ".join, "`lead_names` has the type string; it must be a list of names"),
        ("labels", lambda cell: cell[0], "`labels` has the type double; it must be a list of numbers"),
        ("labels", lambda cell: list(map(str, cell)), "`labels` has the type list<.*string>; it must be"),
    ],
)
def test_a_column_of_another_type_is_named(simulated_splits, column, convert, message):
    records = [{**row, column: convert(row[column])} for row in rows(simulated_splits)]
    with pytest.raises(ValueError, match=message):
        EvaluationWindows(datasets.Dataset.from_list(records), small_extractor())
