"""Records that are not PTB-XL's, from the commands: pre-training and classification read the same files alike."""

import shutil

import numpy as np
import pytest
import wfdb
from conftest import SHARED
from small_models import small_extractor, small_model
from transformers import AutoModel, pipeline

from ecg_hf import cli, load_ecg_dataset
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.post_training.run import TaskArguments, load_model
from ecg_hf.pretraining.records import folder_files, load_records
from ecg_hf.runs.arguments import ModelArguments
from ecg_hf.synthetic import simulate_ecg

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

QUICK = {
    "architecture": "ptbxl_100hz",
    "max_steps": 2,
    "per_device_train_batch_size": 8,
    "probe_every": 0,
    "use_cpu": True,
    "disable_tqdm": True,
}


def flags(**values) -> list[str]:
    return [str(part) for name, value in values.items() for part in (f"--{name}", value)]


def write(folder, name, channels, signal, rate=500.0, sample_format="16", gain=1000.0, units="mV") -> None:
    """`signal` (channels, samples) in mV as a WFDB record."""
    wfdb.wrsamp(
        name,
        rate,
        [units] * len(channels),
        list(channels),
        p_signal=signal.T,
        fmt=[sample_format] * len(channels),
        adc_gain=[gain] * len(channels),
        baseline=[0] * len(channels),
        write_dir=str(folder),
    )


@pytest.fixture(scope="module")
def mixed_folder(tmp_path_factory):
    """Simulated records in the forms that other sets have: gains, formats, channels that are no leads, segments."""
    folder = tmp_path_factory.mktemp("mixed") / "records"
    folder.mkdir()
    rng = np.random.default_rng(0)
    signals = [simulate_ecg(["NORM"], sampling_rate=500, rng=rng) / 1000.0 for _ in range(20)]
    for number, signal in enumerate(signals[:8]):
        write(folder, f"plain{number}", LEAD_NAMES, signal)
    for number, signal in enumerate(signals[8:12]):
        names = [*(name.lower() for name in reversed(LEAD_NAMES)), "vx", "PLETH"]
        write(folder, f"other{number}", names, np.concatenate([signal[::-1], signal[:2]]), gain=200.0)
    for number, signal in enumerate(signals[12:16]):
        write(folder, f"packed{number}", LEAD_NAMES, signal, sample_format="212", gain=100.0)
    for number, signal in enumerate(signals[16:20]):
        write(folder, f"seg{number}_a", LEAD_NAMES, signal[:, :2000])
        write(folder, f"seg{number}_b", LEAD_NAMES, signal[:, 2000:], gain=500.0)
        lines = [f"seg{number}/2 12 500 5000", f"seg{number}_a 2000", f"seg{number}_b 3000"]
        (folder / f"seg{number}.hea").write_text("\n".join(lines) + "\n")
    return folder, 20


@pytest.fixture(scope="module")
def real_folder(tmp_path_factory):
    """25 records of PhysioNet/CinC 2021, and one of PTB Diagnostic with its Frank leads."""
    if not (SHARED / "data" / "challenge2021").is_dir():
        pytest.skip(f"the records of other data sets are not in {SHARED / 'data'}")
    folder = tmp_path_factory.mktemp("real") / "records"
    for name in ("challenge2021", "ptb"):
        shutil.copytree(SHARED / "data" / name, folder / name)
    return folder, 26


def write_table(folder, path) -> None:
    """A table of the records with paths of all endings, each record of its own patient."""
    endings = ["", ".hea", ".mat"]
    headers = sorted(folder.rglob("*.hea"))
    headers = [header for header in headers if "_a" not in header.stem and "_b" not in header.stem]
    lines = [
        f"{header.relative_to(folder).with_suffix('')}{endings[number % 3]};p{number}"
        for number, header in enumerate(headers)
    ]
    path.write_text("file;who\n" + "\n".join(lines) + "\n")


@pytest.mark.filterwarnings("ignore:.*none of the twelve leads")
@pytest.mark.parametrize("source", ["folder", "table"])
@pytest.mark.parametrize("kind", ["mixed_folder", "real_folder"])
def test_pre_training_takes_any_records_and_classification_sees_the_same_millivolts(
    kind, source, request, tmp_path, monkeypatch, capsys, caplog
):
    folder, num_records = request.getfixturevalue(kind)
    data = {"data_dir": folder}
    if source == "table":
        write_table(folder, tmp_path / "records.csv")
        data = {"train_table": tmp_path / "records.csv", "data_dir": folder}
        data |= {"record_column": "file", "patient_column": "who"}
    if kind == "real_folder":
        # Of PhysioNet/CinC 2021 some are copies of PTB-XL's.
        with pytest.raises(ValueError, match="of a fold that no table tells"):
            cli.pretrain(flags(**QUICK, **data, cache_dir=tmp_path / "cache", output_dir=tmp_path / "run"))
        data["allow_test_folds"] = True
    ptbxl = ", 5 of them PTB-XL's, of folds that are not known" if kind == "real_folder" else ""
    results = cli.pretrain(flags(**QUICK, **data, cache_dir=tmp_path / "cache", output_dir=tmp_path / "run"))
    assert results["num_records"] == num_records and np.isfinite(results["loss"])
    assert AutoModel.from_pretrained(tmp_path / "run").config.provenance == {
        "license": "apache-2.0",
        "pretraining_data": f"{num_records} own records{ptbxl}",
        "ptbxl_folds": ["unknown"],
    }
    channels = {
        "mixed_folder": "vx of 4 records, PLETH of 4 records",
        "real_folder": "vx of 1 records, vy of 1 records",
    }
    assert f"none of the twelve leads are not read: {channels[kind]}" in caplog.text

    small_model().save_pretrained(tmp_path / "classifier")
    small_extractor().save_pretrained(tmp_path / "classifier")
    files = folder_files(folder)
    paths = [str(file.path) for file in files]
    seen = []
    classifier = pipeline("ecg-classification", model=str(tmp_path / "classifier"))
    extractor = classifier.feature_extractor
    original = type(extractor).__call__

    def watch(self, signal, **recording):
        unit = {"uV": 1000.0, "mV": 1.0, None: 1.0}[recording.get("units")]
        seen.append((np.asarray(signal, dtype=np.float64) / unit, recording["lead_names"], recording["sampling_rate"]))
        return original(self, signal, **recording)

    monkeypatch.setattr(type(extractor), "__call__", watch)
    cli.classify([*paths, "--model", str(tmp_path / "classifier")])
    assert capsys.readouterr().out.count("(threshold") == 5 * num_records == 5 * len(seen)
    stored = load_records(files, 0.0, tmp_path / "cache")
    for row, (millivolts, lead_names, rate) in zip(stored, seen, strict=True):
        assert tuple(lead_names) == tuple(row["lead_names"]) and rate == row["sampling_rate"]
        signal = np.array(row["signal"], dtype=np.float64).reshape(len(lead_names), -1) / 1000
        assert np.abs(signal - millivolts).max() <= 0.0005


def test_the_segments_of_a_record_are_no_records_and_a_changed_one_is_read_again(mixed_folder, tmp_path):
    folder = shutil.copytree(mixed_folder[0], tmp_path / "records")
    files = folder_files(folder)
    files = files.take([row for row, file in enumerate(files) if file.path.name.startswith("seg")])
    assert [file.path.name for file in files] == ["seg0", "seg1", "seg2", "seg3"]
    before = load_records(files, 0.0, tmp_path)
    write(folder, "seg0_b", LEAD_NAMES, np.tile(np.sin(np.arange(3000) / 50), (12, 1)))
    after = load_records(files, 0.0, tmp_path)
    assert before[0]["signal"] != after[0]["signal"] and before[1]["signal"] == after[1]["signal"]


def test_a_new_model_has_the_rate_of_the_files_to_the_last_digit(tmp_path):
    rng = np.random.default_rng(0)
    names = [f"{number}.npy" for number in range(12)]
    for name in names:
        np.save(tmp_path / name, rng.normal(0, 0.3, (12, 2600)).astype(np.float32))
    table = tmp_path / "table.csv"
    table.write_text("path,AF\n" + "".join(f"{name},{number % 2}\n" for number, name in enumerate(names)))
    said = {"sampling_rate": 257.3, "units": "mV", "lead_names": list(LEAD_NAMES)}
    splits = load_ecg_dataset(table, label_columns=["AF"], cache_dir=tmp_path / "cache", **said)
    data_args = TaskArguments(table=str(table), label_columns=["AF"], **said)
    model, extractor = load_model(ModelArguments(architecture="tiny"), data_args, splits["train"])
    assert model.config.sampling_rate == extractor.sampling_rate == 257.3
