"""What comes out: findings, vectors and pictures of files, folders and tables, from the command line."""

import csv
import io
import json
import os
import re
import shutil

import datasets
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
import torch
import wfdb
from conftest import SHARED
from matplotlib.backends.backend_agg import FigureCanvasAgg
from small_models import small_extractor, small_model
from transformers import (
    AutoModel,
    BertConfig,
    BertModel,
    BertTokenizerFast,
    FeatureExtractionPipeline,
    ViTConfig,
    ViTModel,
    pipeline,
)

from ecg_hf import ECGFeatureExtractionPipeline, ECGTransformerModel, cli, pipelines
from ecg_hf.ecg_transformer.common_ecg_transformer import LEAD_NAMES
from ecg_hf.plotting import plot_ecg

FINDINGS = ["NORM", "MI", "STTC", "CD", "HYP"]
RECORDING = {"sampling_rate": 500, "lead_names": list(LEAD_NAMES), "units": "uV"}


def microvolts(seed: int, seconds: float = 10) -> np.ndarray:
    """(12, samples) at 500 Hz, int16: noise that is another for each seed, in limb leads that agree."""
    generator = np.random.default_rng(seed)
    samples = int(seconds * 500)
    signal = generator.normal(scale=300, size=(12, samples)) + 500 * np.sin(np.arange(samples) / (20 + seed))
    one, two = signal[:2]
    signal[2:6] = two - one, -(one + two) / 2, one - two / 2, two - one / 2
    return signal.round().astype(np.int16)


def write_record(folder, name: str, signal: np.ndarray) -> str:
    wfdb.wrsamp(
        name,
        fs=500,
        units=["mV"] * len(signal),
        sig_name=list(LEAD_NAMES[: len(signal)]),
        d_signal=signal.T.astype(np.int64),
        fmt=["16"] * len(signal),
        adc_gain=[1000.0] * len(signal),
        baseline=[0] * len(signal),
        write_dir=str(folder),
    )
    return str(folder / name)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoints") / "classifier"
    sizes = {"num_samples": 500, "patch_size": 10, "initializer_range": 0.3}
    small_model(FINDINGS, **sizes, label_names={"NORM": "normal ECG"}).save_pretrained(folder)
    small_extractor(num_samples=500, window_stride=250).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("checkpoints") / "encoder"
    small_model(None, ECGTransformerModel, num_samples=500, patch_size=10).save_pretrained(folder)
    small_extractor(num_samples=500, window_stride=250).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def records(tmp_path_factory) -> tuple:
    """A folder of twelve records and their signals by name."""
    folder = tmp_path_factory.mktemp("records")
    signals = {f"r{number:02d}": microvolts(number, seconds=3 + number % 5) for number in range(12)}
    for name, signal in signals.items():
        write_record(folder, name, signal)
    return folder, signals


@pytest.fixture(scope="module")
def expected(records, checkpoint) -> dict:
    """The scores of each record alone, by name and label."""
    classifier = pipeline("ecg-classification", model=checkpoint, device="cpu")
    return {name: by_label(classifier(signal, **RECORDING)) for name, signal in records[1].items()}


def by_label(findings) -> dict[str, float]:
    return {finding["label"]: finding["score"] for finding in findings}


def run(command: str, *arguments: object, **flags: object) -> None:
    listed = [str(argument) for argument in arguments]
    for name, value in flags.items():
        values = value if isinstance(value, (list, tuple)) else [value]
        listed += [f"--{name}", *map(str, values)] if value is not True else [f"--{name}"]
    getattr(cli, command)(listed)


# classify: formats


def scores_in(output_format: str, wide: bool, text: str) -> dict:
    if output_format == "csv" and wide:
        return {row.pop("record"): {k: float(v) for k, v in row.items()} for row in csv.DictReader(io.StringIO(text))}
    if output_format == "csv":
        table = pd.read_csv(io.StringIO(text))
        return {name: dict(zip(rows["label"], rows["score"], strict=True)) for name, rows in table.groupby("record")}
    entries = json.loads(text) if output_format == "json" else [json.loads(line) for line in text.splitlines()]
    return {entry["record"]: by_label(entry["findings"]) for entry in entries}


@pytest.mark.parametrize("batch_size", [1, 3, 64])
@pytest.mark.parametrize(("output_format", "wide"), [("json", False), ("jsonl", False), ("csv", False), ("csv", True)])
def test_every_format_has_the_scores_of_each_record_alone(
    records, expected, checkpoint, tmp_path, capsys, output_format, wide, batch_size
):
    flags = {
        "model": checkpoint,
        "format": output_format,
        "batch_size": batch_size,
        **({"wide": True} if wide else {}),
    }
    run("classify", records[0], **flags)
    printed = capsys.readouterr().out
    found = scores_in(output_format, wide, printed)
    assert [os.path.basename(name) for name in found] == list(expected)
    for name, scores in found.items():
        assert scores == pytest.approx(expected[os.path.basename(name)], abs=1e-5)
    del flags["format"]
    run("classify", records[0], **flags, output=tmp_path / f"out.{output_format}")
    assert (tmp_path / f"out.{output_format}").read_text() == printed
    assert os.listdir(tmp_path) == [f"out.{output_format}"]


def test_a_table_for_reading_is_the_default_and_top_k_cuts_it(records, expected, checkpoint, capsys):
    run("classify", records[0] / "r03", model=checkpoint, top_k=2)
    first, *lines = capsys.readouterr().out.splitlines()
    highest = sorted(expected["r03"].items(), key=lambda item: -item[1])[:2]
    assert first == str(records[0] / "r03") and len(lines) == 2
    for line, (label, score) in zip(lines, highest, strict=True):
        assert re.fullmatch(rf"  (present|absent ) +{label} +{score:.3f} \(threshold 0.500\)  .+", line)
    run("classify", records[0] / "r03", model=checkpoint, top_k=2, format="csv")
    assert len(capsys.readouterr().out.splitlines()) == 3


def test_a_progress_bar_is_on_stderr_where_there_are_many(records, checkpoint, capsys):
    run("classify", records[0], model=checkpoint, format="jsonl")
    printed = capsys.readouterr()
    assert "12/12" in printed.err and len(printed.out.splitlines()) == 12
    run("classify", records[0] / "r00", records[0] / "r01", model=checkpoint)
    assert "/2 " not in capsys.readouterr().err


# classify: broken records


@pytest.mark.parametrize("batch_size", [7, 32])
def test_of_a_hundred_files_three_broken_ones_are_named_and_the_others_answered(
    checkpoint, tmp_path, capsys, batch_size
):
    (tmp_path / "records").mkdir()
    for number in range(100):
        write_record(tmp_path / "records", f"p{number:03d}", microvolts(number % 4, seconds=5))
    (tmp_path / "records" / "p010.dat").write_bytes(b"")
    (tmp_path / "records" / "p050.hea").write_text("p050 12 500")
    (tmp_path / "records" / "p099.dat").unlink()
    with pytest.raises(SystemExit, match="^3 of 100 records could not be classified.$"):
        run("classify", tmp_path / "records", model=checkpoint, output=tmp_path / "o.csv", batch_size=batch_size)
    answered = pd.read_csv(tmp_path / "o.csv")["record"].map(os.path.basename).unique()
    assert len(answered) == 97 and not {"p010", "p050", "p099"} & {*answered}
    named = [line for line in capsys.readouterr().err.splitlines() if "/records/p" in line and "record/s" not in line]
    assert [re.search(r"p\d{3}", line)[0] for line in named] == ["p010", "p050", "p099"]


def test_ten_broken_records_are_named_and_the_others_counted(records, checkpoint, capsys, tmp_path):
    absent = [tmp_path / f"absent{number}" for number in range(13)]
    with pytest.raises(SystemExit, match="13 of 14 records"):
        run("classify", *absent, records[0] / "r00", model=checkpoint, format="jsonl")
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 1
    assert printed.err.count("absent") == 10 and "and 3 more" in printed.err


def test_a_process_with_a_broken_record_exits_with_1(records, checkpoint, new_process, tmp_path):
    command = ["classify", records[0] / "r00", tmp_path / "absent", "--model", checkpoint, "--format", "jsonl"]
    result = new_process("from ecg_hf.cli import main; main()", *command)
    assert result.returncode == 1 and "1 of 2 records could not be classified" in result.stderr
    assert json.loads(result.stdout)["record"] == str(records[0] / "r00") and "Traceback" not in result.stderr


def test_an_interrupted_output_is_not_written(records, checkpoint, tmp_path, monkeypatch):
    original = pipelines.read_leads

    def read(path, said):
        if "r07" in str(path):
            raise KeyboardInterrupt
        return original(path, said)

    monkeypatch.setattr(pipelines, "read_leads", read)
    (tmp_path / "out.csv").write_text("of before")
    with pytest.raises(KeyboardInterrupt):
        run("classify", records[0], model=checkpoint, output=tmp_path / "out.csv", batch_size=4)
    assert (tmp_path / "out.csv").read_text() == "of before" and os.listdir(tmp_path) == ["out.csv"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"format": "json", "wide": True}, "`wide` is for CSV with all labels; got the format json"),
        ({"format": "csv", "wide": True, "top_k": 2}, "`wide` is for CSV with all labels.*top_k 2"),
        ({"batch_size": 0}, "`batch_size` must be at least 1 window, got 0"),
        ({"output": "absent/out.csv"}, "its folder does not exist"),
        ({"output": "."}, "is a folder: give the name of a file"),
        ({"output": "x.parquet"}, "`--output` x.parquet must end in .txt, .json, .jsonl, .csv or nothing"),
        ({"lead_names": ["I", "X"]}, "Unknown leads in `lead_names`: X|must list some of"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(records, checkpoint, tmp_path, monkeypatch, capsys, flags, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises((ValueError, OSError, SystemExit)) as caught:
        run("classify", records[0] / "r00", model=checkpoint, **flags)
    assert re.search(message, str(caught.value) + capsys.readouterr().err)


# Folders, tables and other formats


def test_a_folder_stands_for_the_ecg_files_in_it(records, expected, checkpoint, tmp_path, capsys):
    (tmp_path / "deep").mkdir()
    write_record(tmp_path / "deep", "r00", records[1]["r00"])
    shutil.copy(tmp_path / "deep" / "r00.dat", tmp_path / "deep" / "spare.dat")
    np.save(tmp_path / "r01.npy", records[1]["r01"])
    np.savetxt(
        tmp_path / "r02.csv", records[1]["r02"].T, fmt="%d", delimiter=",", header=",".join(LEAD_NAMES), comments=""
    )
    for name in ("r01", "r02"):
        (tmp_path / f"{name}.json").write_text(json.dumps(RECORDING))
    (tmp_path / "notes.txt").write_text("no ECG")
    (tmp_path / "labels.csv").write_text("id,AF\nr00,1\n")
    run("classify", tmp_path, model=checkpoint, format="jsonl")
    found = scores_in("jsonl", False, capsys.readouterr().out)
    assert [os.path.relpath(name, tmp_path) for name in found] == ["deep/r00", "r01.npy", "r02.csv"]
    for name, scores in found.items():
        assert scores == pytest.approx(expected[os.path.basename(name)[:3]], abs=1e-5)


@pytest.mark.parametrize("wide", [False, True])
def test_a_table_of_no_finding_has_its_columns(checkpoint, tmp_path, capsys, wide):
    with pytest.raises(SystemExit, match="1 of 1 records"):
        run(
            "classify",
            tmp_path / "none.edf",
            model=checkpoint,
            output=tmp_path / "x.csv",
            **({"wide": True} if wide else {}),
        )
    frame = pd.read_csv(tmp_path / "x.csv")
    assert not len(frame) and frame.columns[0] == "record"
    assert wide or list(frame)[1:] == ["label", "name", "score", "threshold", "positive"]


def test_a_folder_without_ecgs_is_named(checkpoint, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("no ECG")
    with pytest.raises(SystemExit, match="1 of 1 records"):
        run("classify", tmp_path, model=checkpoint)
    said = capsys.readouterr().err
    assert f"The folder {tmp_path} has no ECG file (.hea, .edf" in said
    assert ".csv or .txt with a `NAME.json` beside it that states rate, unit and leads" in said


def write_table(records, folder, form: str):
    names = list(records[1])[:4]
    frame = pd.DataFrame({"ecg": [f"data/{name}" for name in names], "age": [50.5, 60.0, 70.0, 80.0]})
    shutil.copytree(records[0], folder / "data")
    if form == "parquet":
        frame.to_parquet(folder / "t.parquet")
        return folder / "t.parquet"
    separator = {"comma": ",", "semicolon": ";", "tab": "\t"}[form]
    frame.to_csv(folder / "t.csv", sep=separator, index=False, encoding="utf-8-sig")
    return folder / "t.csv"


@pytest.mark.parametrize("form", ["comma", "semicolon", "tab", "parquet"])
def test_a_table_stands_for_the_records_of_its_column(records, expected, checkpoint, tmp_path, capsys, form):
    table = write_table(records, tmp_path, form)
    run("classify", table, model=checkpoint, record_column="ecg", format="jsonl")
    printed = capsys.readouterr().out
    run("classify", table=table, model=checkpoint, record_column="ecg", format="jsonl")
    assert capsys.readouterr().out == printed  # by the flag of the other commands
    found = scores_in("jsonl", False, printed)
    assert list(found) == [f"data/r0{number}" for number in range(4)]
    for name, scores in found.items():
        assert scores == pytest.approx(expected[os.path.basename(name)], abs=1e-5)


def test_leads_of_a_tables_column_name_the_channels_and_those_of_the_flag_are_taken(
    records, checkpoint, tmp_path, capsys
):
    name, signal = next(iter(records[1].items()))
    np.save(tmp_path / f"{name}.npy", signal)
    table = pd.DataFrame({"path": [f"{name}.npy"], "lead_names": " ".join(LEAD_NAMES)})
    table.to_csv(tmp_path / "t.csv", index=False)
    said = {"sampling_rate": 500, "units": "uV", "format": "jsonl", "lead_names": ["V2", "I"]}
    run("classify", tmp_path / "t.csv", model=checkpoint, **said)
    table.drop(columns="lead_names").to_csv(tmp_path / "u.csv", index=False)
    np.save(tmp_path / f"{name}.npy", signal[[LEAD_NAMES.index("V2"), 0]])
    run("classify", tmp_path / "u.csv", model=checkpoint, **said)
    taken, alone = capsys.readouterr().out.splitlines()
    assert taken == alone


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_flags_of_tables_are_refused_without_one(records, checkpoint, tmp_path, command):
    table = write_table(records, tmp_path, "comma")
    given = {"model": checkpoint, "output": tmp_path / ("x.csv" if command == "classify" else "x.npy")}
    for flags, message in (
        ({"data_dir": tmp_path}, "`--data_dir` is for tables"),
        ({"record_column": "other"}, "`--record_column` is for tables, .* the column `other`"),
    ):
        with pytest.raises(ValueError, match=message):
            run(command, tmp_path / "data" / "r00", **given, **flags)
    with pytest.raises(ValueError, match="`record_column`: the table .* has no column `other`; it has ecg, age"):
        run(command, table=table, record_column="other", **given)
    with pytest.raises(FileNotFoundError, match="no folder that `datasets` saved"):
        run(command, table=tmp_path / "data", **given)
    with pytest.raises(FileNotFoundError, match="The table .* does not exist"):
        run(command, table=tmp_path / "no.csv", **given)
    assert not given["output"].exists()


@pytest.mark.parametrize("command", ["classify", "embed"])
def test_what_is_read_is_not_replaced_by_what_is_written(records, checkpoint, tmp_path, command):
    table = write_table(records, tmp_path, "comma")
    signal = tmp_path / ("r.csv" if command == "classify" else "r.npy")
    if command == "classify":
        np.savetxt(signal, np.zeros((3000, 1)))
    else:
        np.save(signal, np.zeros((3000, 1)))
    before = table.read_bytes(), signal.read_bytes()
    beside = table if command == "classify" else table.with_suffix(".npy")
    stated = {"sampling_rate": 500, "units": "mV", "lead_names": "I"}
    for arguments, flags, output in (
        ([table], {"record_column": "ecg"}, beside),
        ([], {"record_column": "ecg", "table": os.path.relpath(table)}, beside),
        ([signal], stated, signal),
    ):
        with pytest.raises(FileExistsError, match="would replace .*, which is read"):
            run(command, *arguments, model=checkpoint, output=output, **flags)
        assert (table.read_bytes(), signal.read_bytes()) == before


def test_a_table_may_hold_the_signals(records, expected, checkpoint, tmp_path, capsys):
    rows = [signal.tolist() for signal in list(records[1].values())[:3]]
    columns = {"path": rows, "sampling_rate": [500] * 3, "units": ["uV"] * 3, "lead_names": [list(LEAD_NAMES)] * 3}
    datasets.Dataset.from_dict(columns).to_parquet(tmp_path / "t.parquet")
    run("classify", tmp_path / "t.parquet", model=checkpoint, format="jsonl")
    found = scores_in("jsonl", False, capsys.readouterr().out)
    for scores, name in zip(found.values(), expected, strict=False):
        assert scores == pytest.approx(expected[name], abs=1e-5)
    assert len(found) == 3


def test_broken_rows_of_a_table_leave_the_others(records, checkpoint, tmp_path, capsys):
    table = write_table(records, tmp_path, "comma")
    (tmp_path / "data" / "r02.dat").unlink()
    with pytest.raises(SystemExit, match="1 of 4 records"):
        run("classify", table, model=checkpoint, record_column="ecg", format="jsonl")
    printed = capsys.readouterr()
    assert len(printed.out.splitlines()) == 3 and "data/r02" in printed.err


@pytest.mark.parametrize("path", ["../r00", "/etc/passwd", "data/../../r00"])
def test_paths_that_leave_the_folder_of_a_table_are_refused(records, checkpoint, tmp_path, path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "t.csv").write_text(f"path,age\n{path},50\n")
    with pytest.raises(ValueError, match=r"outside of the folder .*in \(write paths from a folder above.*row 1"):
        run("classify", tmp_path / "in" / "t.csv", model=checkpoint)
    write_record(tmp_path, "r00", records[1]["r00"])
    if not path.startswith("/"):
        (tmp_path / "in" / "t.csv").write_text("path,age\nr00,50\n")
        run("classify", tmp_path / "in" / "t.csv", model=checkpoint, data_dir=tmp_path)


def test_what_a_file_does_not_state_the_flags_say(records, expected, checkpoint, tmp_path, capsys):
    np.save(tmp_path / "r04.npy", records[1]["r04"])
    with pytest.raises(SystemExit, match="1 of 1"):
        run("classify", tmp_path / "r04.npy", model=checkpoint)
    assert "sampling_rate" in capsys.readouterr().err
    facts = {"sampling_rate": 500, "units": "uV", "lead_names": LEAD_NAMES}
    run("classify", tmp_path / "r04.npy", model=checkpoint, format="jsonl", **facts)
    [scores] = scores_in("jsonl", False, capsys.readouterr().out).values()
    assert scores == pytest.approx(expected["r04"], abs=1e-5)
    with pytest.raises(SystemExit, match="1 of 1"):
        run("classify", records[0] / "r04", model=checkpoint, sampling_rate=250)
    assert "sampling rate is 500 Hz, expected 250" in capsys.readouterr().err


def test_the_pipeline_reads_what_the_command_reads(records, expected, checkpoint, tmp_path):
    np.save(tmp_path / "r04.npy", records[1]["r04"])
    classifier = pipeline("ecg-classification", model=checkpoint, device="cpu")
    assert by_label(classifier(tmp_path / "r04.npy", **RECORDING)) == pytest.approx(expected["r04"], abs=1e-6)
    with pytest.raises(ValueError, match="r04.npy: .*sampling_rate"):
        classifier(tmp_path / "r04.npy")


def test_a_step_below_1_microvolt_is_rounded_as_everywhere(records, checkpoint, tmp_path, capsys):
    fine = records[1]["r05"] + np.random.default_rng(0).uniform(-0.49, 0.49, records[1]["r05"].shape)
    np.save(tmp_path / "fine.npy", fine.astype(np.float32) / 1000)
    np.save(tmp_path / "whole.npy", records[1]["r05"])
    (tmp_path / "fine.json").write_text(json.dumps({**RECORDING, "units": "mV"}))
    (tmp_path / "whole.json").write_text(json.dumps(RECORDING))
    run("classify", tmp_path / "fine.npy", tmp_path / "whole.npy", model=checkpoint, format="jsonl")
    fine_scores, whole_scores = scores_in("jsonl", False, capsys.readouterr().out).values()
    assert fine_scores == whole_scores


def test_real_records_of_the_challenge_are_answered(checkpoint, tmp_path):
    folder = SHARED / "data" / "challenge2021"
    if not folder.is_dir():
        pytest.skip(f"the records of the Challenge are not at {folder}")
    run("classify", folder, model=checkpoint, output=tmp_path / "out.csv", wide=True)
    assert len(pd.read_csv(tmp_path / "out.csv")) == len(list(folder.rglob("*.hea"))) > 0


# embed


def pooled(model: str, signal: np.ndarray) -> np.ndarray:
    loaded = AutoModel.from_pretrained(model).eval()
    windows = small_extractor(num_samples=500, window_stride=250)(signal, **RECORDING)
    with torch.no_grad():
        return loaded(**windows).pooler_output.mean(dim=0).numpy()


@pytest.mark.parametrize("batch_size", [2, 32])
def test_embed_writes_the_mean_feature_of_each_record(records, encoder, checkpoint, tmp_path, batch_size, capsys):
    for model in (encoder, checkpoint):
        flags = {"model": model, "batch_size": batch_size}
        run("embed", records[0], **flags, output=tmp_path / "x.npy")
        assert capsys.readouterr().err.splitlines()[-1] == f"12 records embedded: {tmp_path / 'x.npy'}"
        run("embed", records[0], **flags, output=tmp_path / "x.parquet")
        vectors, names = np.load(tmp_path / "x.npy"), pd.read_csv(tmp_path / "x.csv")["record"]
        assert vectors.dtype == np.float32 and vectors.shape == (12, 16)
        table = pa.parquet.read_table(tmp_path / "x.parquet")
        assert table["record"].to_pylist() == list(names)
        np.testing.assert_array_equal(np.array(table["embedding"].to_pylist(), dtype=np.float32), vectors)
        for name, vector in zip(names, vectors, strict=True):
            signal = records[1][os.path.basename(name)]
            np.testing.assert_allclose(vector, pooled(model, signal), atol=1e-5)


def test_embed_names_broken_records_and_leaves_them_out(records, encoder, tmp_path, capsys):
    arguments = [records[0] / "r00", tmp_path / "absent", records[0] / "r01"]
    with pytest.raises(SystemExit, match="1 of 3 records could not be embedded"):
        run("embed", *arguments, model=encoder, output=tmp_path / "x.npy")
    assert len(np.load(tmp_path / "x.npy")) == len(pd.read_csv(tmp_path / "x.csv")) == 2
    assert "absent" in capsys.readouterr().err
    with pytest.raises(SystemExit, match="1 of 1"):
        run("embed", tmp_path / "absent", model=encoder, output=tmp_path / "none.npy")
    assert not (tmp_path / "none.npy").exists()
    with pytest.raises(ValueError, match=r"the ending of --output` must be one of .npy, .parquet, got `.txt`"):
        run("embed", records[0] / "r00", model=encoder, output=tmp_path / "x.txt")


def test_an_encoder_with_nan_weights_gives_no_vector(records, encoder, tmp_path, capsys):
    model = ECGTransformerModel.from_pretrained(encoder)
    model.norm.weight.data[0] = float("nan")
    folder = shutil.copytree(encoder, tmp_path / "damaged")
    model.save_pretrained(folder)
    with pytest.raises(SystemExit, match="1 of 1"):
        run("embed", records[0] / "r00", model=folder, output=tmp_path / "x.npy")
    assert "gives a NaN or infinite feature" in capsys.readouterr().err


# The pipeline feature-extraction


def test_feature_extraction_takes_records_of_every_kind(records, encoder):
    extractor = pipeline("feature-extraction", model=encoder, device="cpu")
    assert type(extractor) is ECGFeatureExtractionPipeline
    folder, signals = records
    signal = signals["r00"]
    row = {"signal": signal.tolist(), **RECORDING}
    kinds = [str(folder / "r00"), folder / "r00.hea", row, wfdb.rdrecord(str(folder / "r00"))]
    expected = pooled(encoder, signal)
    for kind in kinds:
        np.testing.assert_allclose(extractor(kind), expected, atol=1e-5)
    np.testing.assert_allclose(extractor(signal, **RECORDING), expected, atol=1e-5)
    paths = [str(folder / name) for name in signals]
    for batch_size in (1, 5, 64):
        together = extractor(paths, batch_size=batch_size)
        assert np.shape(together) == (12, 16)
        for vector, name in zip(together, signals, strict=True):
            np.testing.assert_allclose(vector, pooled(encoder, signals[name]), atol=1e-5)
    assert np.shape(extractor(datasets.Dataset.from_list([row, row]))) == (2, 16)
    assert len(list(extractor(path for path in paths))) == 12
    assert extractor(paths[0], return_tensors=True).shape == (16,)
    with pytest.raises(TypeError, match="unexpected keyword"):
        extractor(paths[0], top_k=2)


def test_feature_extraction_of_other_models_is_the_librarys(tmp_path):
    (tmp_path / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "heart"]))
    tokenizer = BertTokenizerFast(str(tmp_path / "vocab.txt"))
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 1, "intermediate_size": 8}
    BertModel(BertConfig(vocab_size=6, **sizes)).save_pretrained(tmp_path / "bert")
    tokenizer.save_pretrained(tmp_path / "bert")
    extractor = pipeline("feature-extraction", model=str(tmp_path / "bert"), device="cpu")
    assert type(extractor) is FeatureExtractionPipeline
    assert np.shape(extractor("heart")) == (1, 3, 8)
    ViTModel(ViTConfig(image_size=16, patch_size=8, **sizes)).save_pretrained(tmp_path / "without")
    with pytest.raises((ValueError, OSError), match="(?i)tokenizer"):
        pipeline("feature-extraction", model=str(tmp_path / "without"), device="cpu")


def test_a_saved_encoder_extracts_features_without_the_package(records, encoder, new_process, tmp_path):
    shutil.copytree(encoder, tmp_path / "encoder")
    script = """
import json, sys
sys.modules["ecg_hf"] = None
from transformers import pipeline
for folder in ("encoder", "again"):
    extractor = pipeline("feature-extraction", model=folder, device="cpu", trust_remote_code=True)
    assert type(extractor).__module__.startswith("transformers_modules"), type(extractor)
    vector = extractor(sys.argv[1])
    if folder == "encoder":
        extractor.save_pretrained("again")
print(json.dumps(vector))
"""
    result = new_process(script, records[0] / "r00", cwd=tmp_path, HF_MODULES_CACHE=tmp_path / "modules")
    assert result.returncode == 0, result.stderr
    vector = json.loads(result.stdout.splitlines()[-1])
    np.testing.assert_allclose(vector, pooled(encoder, records[1]["r00"]), atol=1e-5)


# plot


@pytest.mark.parametrize("leads", [1, 3, 8, 12])
@pytest.mark.parametrize(
    ("seconds", "ending", "head"), [(10, "png", b"\x89PNG"), (30, "svg", b"<?xml"), (60, "pdf", b"%PDF")]
)
@pytest.mark.filterwarnings("ignore:The leads .* are missing", "ignore:The limb leads")
def test_plot_draws_a_record_with_its_findings(checkpoint, tmp_path, capsys, leads, seconds, ending, head):
    record = write_record(tmp_path, "ecg", microvolts(1, seconds)[:leads] // 4)
    for name, flags in (("bare", {}), ("with", {"model": checkpoint})):
        run("plot", record, **flags, output=tmp_path / f"{name}.{ending}")
        assert (tmp_path / f"{name}.{ending}").read_bytes().startswith(head)
    assert f"The picture is {tmp_path}/with.{ending}" in capsys.readouterr().out


def finding(label: str, score: float = 0.7, **fields) -> dict:
    return {"label": label, "name": label, "score": score, "threshold": 0.5, "positive": score >= 0.5, **fields}


def test_findings_stand_beside_the_paper_and_touch_nothing():
    findings = [finding(f"L{number}", 0.9 - number / 100, name="a very long name " * 9) for number in range(30)]
    signal = np.zeros((1, 1000))
    plain = plot_ecg(signal, sampling_rate=100, lead_names=["I"])
    figure = plot_ecg(signal, sampling_rate=100, lead_names=["I"], findings=findings)
    renderer = FigureCanvasAgg(figure).get_renderer()
    boxes = [text.get_window_extent(renderer) for text in figure.axes[0].texts if text.get_text()]
    assert not [(a, b) for index, a in enumerate(boxes) for b in boxes[:index] if a.overlaps(b)]
    assert all(box.x1 <= figure.bbox.x1 and box.y0 >= 0 and box.y1 <= figure.bbox.y1 for box in boxes)
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert "and 10 more with lower scores" in texts and "0.900 (0.500)" in texts
    assert figure.axes[0].get_xlim()[1] > plain.axes[0].get_xlim()[1]
    values = plot_ecg(
        signal,
        sampling_rate=100,
        lead_names=["I"],
        findings=[
            {"label": "AGE", "name": "age", "value": 67.25},
            {"label": "A", "name": "A", "score": 0.7, "positive": True},
        ],
    )
    assert {"67.25", "AGE age", "0.700", "present"} <= {text.get_text() for text in values.axes[0].texts}


def test_a_plot_that_cannot_be_drawn_is_refused(checkpoint, tmp_path):
    record = write_record(tmp_path, "ecg", microvolts(1, 61))
    with pytest.raises(ValueError, match="61 s long, the maximum is 60 s"):
        run("plot", record, output=tmp_path / "x.png")
    with pytest.raises(ValueError, match="must be one of .png, .svg, .pdf, got `.jpg`"):
        run("plot", record, output=tmp_path / "x.jpg")
    with pytest.raises(ValueError, match="absent"):
        run("plot", tmp_path / "absent", output=tmp_path / "x.png")
    assert not list(tmp_path.glob("*.png"))
