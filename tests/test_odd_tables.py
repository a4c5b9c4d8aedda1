"""Own tables as clumsy hands leave them: odd types, odd cells, odd paths, and what a cache must not keep."""

import json
import os
import re
import subprocess
import sys
import time

import datasets
import numpy as np
import pandas as pd
import pytest
import scipy.io
import torch
from safetensors.torch import load_file
from test_stories import ENCODER
from test_tables import write_record

from ecg_hf import cli, load_ecg_dataset
from ecg_hf.ptbxl.label_order import label_names_of

pytestmark = pytest.mark.usefixtures("pictures_not_drawn")

NUM_RECORDS = 30


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("odd")
    (folder / "sig").mkdir()
    for index in range(NUM_RECORDS):
        write_record(folder / "sig", f"r{index:02}")
    return folder


@pytest.fixture(scope="module")
def options(folder):
    return {"data_dir": folder, "cache_dir": folder / "cache"}


def frame(**columns) -> pd.DataFrame:
    paths = [f"sig/r{index:02}" for index in range(NUM_RECORDS)]
    return pd.DataFrame({"path": paths, "AF": [index % 2 for index in range(NUM_RECORDS)], **columns})


def labels_of(splits) -> dict[str, list[float]]:
    """The labels of each record, by the last part of its path."""
    return {
        ecg_id[-3:]: labels
        for dataset in splits.values()
        for ecg_id, labels in zip(dataset["ecg_id"], dataset["labels"], strict=True)
    }


# ---- Types of columns ----


@pytest.mark.parametrize("kind", ["float64", "Float32", "Int64", "boolean", "string", "category", "object"])
@pytest.mark.parametrize("form", ["frame", "Parquet", "data set"])
def test_labels_of_any_type_with_empty_cells(form, kind, options, tmp_path):
    values = pd.Series([0, 1, None] * 10, dtype="Int64")
    if kind in ("category", "object"):
        values = values.astype(object).where(values.notna(), None)
    table = frame(MI=values.astype(kind))
    if form == "Parquet":
        table.to_parquet(tmp_path / "table.parquet")
    given = {
        "frame": table,
        "Parquet": tmp_path / "table.parquet",
        "data set": datasets.Dataset.from_pandas(table.astype({"MI": object}) if kind == "category" else table),
    }[form]
    found = labels_of(load_ecg_dataset(given, label_columns=["MI"], **options))
    assert [found[f"r{index:02}"] for index in range(NUM_RECORDS)] == [[0], [1], [-100]] * 10


def test_whole_numbers_beside_empty_cells_stay_whole(options):
    """As floats, both patients would be 9007199254740992."""
    ids = [None, 2**53, 2**53 + 1] * 10
    splits = load_ecg_dataset(
        datasets.Dataset.from_dict({**frame().to_dict("list"), "who": ids}),
        label_columns=["AF"],
        patient_column="who",
        **options,
    )
    patients = {patient for dataset in splits.values() for patient in dataset["patient_id"]}
    assert patients == {None, "9007199254740992", "9007199254740993"}


def test_classes_of_a_data_set_keep_their_names(options):
    classes = datasets.ClassLabel(names=["sinus", "AF", "paced"])
    table = datasets.Dataset.from_dict(
        {
            "path": frame()["path"].tolist(),
            "rhythm": ["sinus", "paced", "AF"] * 10,
            "dx": [["AF"], ["paced", "AF"], []] * 10,
            "part": (["train"] * 10 + ["validation"] * 5) * 2,
        }
    )
    without_af = {"train": table.select(range(20)), "validation": table.select([21, 22, 24, 25, 27, 28])}
    numbered = datasets.DatasetDict(without_af).class_encode_column("rhythm")  # each split by itself
    apart = load_ecg_dataset(numbered, label_column="rhythm", problem_type="single_label_classification", **options)
    assert [labels_of(apart)[name] for name in ("r00", "r02", "r21", "r22")] == [
        [0, 0, 1],
        [1, 0, 0],
        [0, 0, 1],
        [0, 1, 0],
    ]
    table = table.cast_column("rhythm", classes).cast_column("dx", datasets.List(classes))
    table = table.cast_column("part", datasets.ClassLabel(names=["validation", "train"]))
    one = load_ecg_dataset(table, label_column="rhythm", problem_type="single_label_classification", **options)
    assert label_names_of(one["train"]) == ["AF", "paced", "sinus"]
    assert labels_of(one)["r01"] == [0, 1, 0]
    several = load_ecg_dataset(table, label_column="dx", split_column="part", **options)
    assert label_names_of(several["train"]) == ["AF", "paced"] and len(several["validation"]) == 10
    assert [labels_of(several)[name] for name in ("r00", "r01", "r02")] == [[1, 0], [1, 1], [0, 0]]


def test_zeros_and_ones_numbers_and_patients_may_be_classes_of_a_data_set(options):
    """`ClassLabel` numbers the names in any order, and in each split anew."""
    table = frame(age=[str(50 + row % 7) for row in range(30)], patient=[f"p{row // 2}" for row in range(30)])
    numbered = datasets.Dataset.from_pandas(table).cast_column("AF", datasets.Value("string"))
    numbered = numbered.cast_column("AF", datasets.ClassLabel(names=["1", "0"])).class_encode_column("age")
    given = {"label_columns": ["AF"], "patient_column": "patient", **options}
    assert labels_of(load_ecg_dataset(numbered, **given)) == labels_of(load_ecg_dataset(table, **given))
    ages = load_ecg_dataset(numbered, label_columns=["age"], problem_type="regression", **options)
    assert labels_of(ages)["r03"] == [53]
    halves = {"train": range(20), "validation": range(20, 30)}
    splits = {name: numbered.select(rows).class_encode_column("patient") for name, rows in halves.items()}
    loaded = load_ecg_dataset(datasets.DatasetDict(splits), **given)
    assert loaded["validation"]["patient_id"][:2] == ["p10", "p10"]
    named = numbered.cast_column("AF", datasets.ClassLabel(names=["AF", "no AF"]))
    with pytest.raises(
        ValueError, match=r"`AF` of the data set must be 0, 1 or empty; it is not in row 1 \('no AF'\)"
    ):
        load_ecg_dataset(named, **given)


@pytest.mark.parametrize("kind", [None, "numpy", "torch"])
def test_patients_of_eight_digits_stay_apart_in_any_format_of_a_data_set(options, kind):
    """`datasets` rounds them to float32 in the formats `numpy` and `torch`, where odd numbers become even ones."""
    table = frame(patient=[19_000_001.0 + row for row in range(29)] + [None])
    given = datasets.Dataset.from_pandas(table).with_format(kind)
    loaded = load_ecg_dataset(given, label_columns=["AF"], patient_column="patient", **options)
    patients = [name for split in loaded.values() for name in split["patient_id"]]
    assert len(set(patients)) == 30 and {f"{19_000_001 + row}" for row in range(29)} <= set(patients)


@pytest.mark.parametrize("text", ["NA", "n/a", "NaN", "NULL", "<NA>"])
def test_what_programs_write_for_nothing_is_nothing(text, folder, options):
    table = frame(patient=["7", text] * 15, rhythm=["SR", "AF", text] * 10, MI=["1", text] * 15)
    table.to_csv(folder / "nothing.csv", index=False)
    given = {"problem_type": "single_label_classification", **options}
    splits = load_ecg_dataset(folder / "nothing.csv", label_column="rhythm", patient_column="patient", **given)
    assert label_names_of(splits["train"]) == ["AF", "SR"] and labels_of(splits)["r02"] == [-100, -100]
    assert {patient for dataset in splits.values() for patient in dataset["patient_id"]} == {None, "7"}
    assert labels_of(load_ecg_dataset(folder / "nothing.csv", label_columns=["MI"], **options))["r01"] == [-100]


def test_patients_and_labels_are_the_same_in_numbers_and_in_text(folder, options):
    table = frame(patient=["7", "7,0", *map(str, range(8, 36))], code=["0", "1", "0;2"] * 10)
    table.to_csv(folder / "commas.csv", index=False, sep="\t")
    given = {"label_column": "code", "patient_column": "patient", "labels": [0, 1, " 2"], **options}
    splits = load_ecg_dataset(folder / "commas.csv", **given)
    assert {patient for dataset in splits.values() for patient in dataset["patient_id"]} == {*map(str, range(7, 36))}
    assert [labels_of(splits)[name] for name in ("r00", "r01", "r02")] == [[1, 0, 0], [0, 1, 0], [1, 0, 1]]


@pytest.mark.parametrize("problem_type", ["single_label_classification", "multi_label_classification"])
@pytest.mark.parametrize(("separator", "decimal"), [(",", "."), (";", ","), (";", ".")])
def test_classes_that_are_numbers_are_the_same_beside_empty_cells(problem_type, separator, decimal, folder, options):
    """pandas writes them with a fraction where cells of the column are empty."""
    tables = {"train": frame(code=[0, 1, None] * 10), "validation": frame(code=[0, 1, 10] * 10).iloc[:9]}
    for name, table in tables.items():
        table.to_csv(folder / f"{name}.csv", index=False, sep=separator, decimal=decimal)
    assert f"0{decimal}0" in (folder / "train.csv").read_text()
    given = {"label_column": "code", "problem_type": problem_type, **options}
    splits = load_ecg_dataset(folder / "train.csv", validation_table=folder / "validation.csv", **given)
    assert label_names_of(splits["train"]) == ["0", "1", "10"]
    assert [splits["train"]["labels"][row] for row in range(3)] == [[1, 0, 0], [0, 1, 0], [-100] * 3]
    frame(code=["427.0", "427.31", "427"] * 10).to_csv(folder / "icd.csv", index=False)
    assert label_names_of(load_ecg_dataset(folder / "icd.csv", **given)["train"]) == ["427", "427.0", "427.31"]


def test_a_number_alone_in_a_list_is_a_class(options):
    splits = load_ecg_dataset(frame(code=[[0], [1], []] * 10), label_column="code", **options)
    assert label_names_of(splits["train"]) == ["0", "1"] and labels_of(splits)["r02"] == [0, 0]


@pytest.mark.parametrize("codes", [["1", "22", "50"], [1, 22, 50]])
def test_a_code_that_is_not_asked_for_is_no_place_among_those_that_are(codes, options, caplog):
    """`ClassLabel` of `datasets` takes the code 1 for the second of its names."""
    given = {"label_column": "code", "labels": ["21", "22", "50"], **options}
    with pytest.raises(ValueError, match=r"has 1 labels beside those asked for: '1' \(10 rows\)"):
        load_ecg_dataset(frame(code=codes * 10), problem_type="single_label_classification", **given)
    found = labels_of(load_ecg_dataset(frame(code=codes * 10), **given))
    assert [found[name] for name in ("r00", "r01", "r02")] == [[0, 0, 0], [0, 1, 0], [0, 0, 1]]
    assert "1 labels beside those asked for: '1' (10 rows)" in caplog.text


def test_columns_may_be_numbered(options):
    table = frame().set_axis(["path", 7], axis=1)
    for given in ([7], ["7"], "[7]"):
        assert label_names_of(load_ecg_dataset(table, label_columns=given, **options)["train"]) == ["7"]


def test_columns_of_several_levels_are_refused(options):
    table = pd.concat({"sheet": frame()}, axis=1)
    with pytest.raises(ValueError, match="The frame has columns of 2 levels: give each a single name"):
        load_ecg_dataset(table, label_columns=["AF"], **options)


@pytest.mark.parametrize("kind", ["streamed", "list", "dictionary"])
def test_what_is_no_table_is_refused(kind):
    table = {
        "streamed": datasets.Dataset.from_pandas(frame()).to_iterable_dataset(),
        "list": [{"path": "x", "AF": 1}],
        "dictionary": frame().to_dict("list"),
    }[kind]
    with pytest.raises(TypeError, match="The table is of the type .*: give a path, a pandas frame, or a `Dataset`"):
        load_ecg_dataset(table, label_columns=["AF"])


# ---- Labels ----


def test_a_pattern_finds_the_same_columns_in_tables_of_another_order(options):
    table = frame(dx_a=[1] * 15 + [0] * 15, dx_b=[0] * 15 + [1] * 15)
    parts = {"validation_table": table[["path", "dx_b", "dx_a"]][20:], "label_columns": "dx_*", **options}
    splits = load_ecg_dataset(table[:20], **parts)
    found = labels_of(splits)
    assert label_names_of(splits["validation"]) == ["dx_a", "dx_b"]
    assert found["r00"] == [1, 0] and found["r19"] == [0, 1] and found["r25"] == [0, 1]
    parts["validation_table"] = table[20:].assign(dx_c=0)
    with pytest.raises(ValueError, match="`label_columns` chooses dx_c in only one of the tables of train and valid"):
        load_ecg_dataset(table[:20], **parts)


def test_a_code_in_brackets_is_that_code(options):
    # The last but one as NumPy prints an array.
    cells = ["('AF')", "(MI)", "['MI', None]", "{'AF', 'MI'}", "['AF' '5']", {"AF": 100.0}]
    cells += ['{"AF": 0.0, "MI": null}', '{"MI": NaN, "5": 50}', {"AF": None, "MI": 0.0}, "{}"]
    splits = load_ecg_dataset(frame(dx=cells * 3), label_column="dx", **options)
    assert label_names_of(splits["train"]) == ["5", "AF", "MI"]
    expected = [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 1, 1], [1, 1, 0], [0, 1, 0]]
    expected += [[0, 1, 0], [1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert [labels_of(splits)[f"r{index:02}"] for index in range(10)] == expected


@pytest.mark.parametrize("form", ["Parquet", "data set"])
def test_codes_of_other_records_are_none_of_a_dictionary(form, options, tmp_path):
    """Parquet files and data sets give each dictionary of a column the keys of all, without a value."""
    cells = [{"NORM": 100.0, "SR": 0.0}, {"IMI": 50.0}, {}]
    table = frame(dx=cells * 10)
    table.to_parquet(tmp_path / "table.parquet")
    given = tmp_path / "table.parquet" if form == "Parquet" else datasets.Dataset.from_pandas(table)
    splits = load_ecg_dataset(given, label_column="dx", **options)
    assert label_names_of(splits["train"]) == ["IMI", "NORM", "SR"]
    assert [labels_of(splits)[name] for name in ("r00", "r01", "r02")] == [[0, 1, 1], [1, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize("cells", [[["AF"], ["SR"]], [("AF",), {"SR": 100.0}], ["['AF']", '["SR"]']])
def test_a_class_alone_in_a_list_is_that_class(cells, options):
    given = {"label_column": "dx", "problem_type": "single_label_classification", **options}
    splits = load_ecg_dataset(frame(dx=[*cells, None] * 10), **given)
    assert label_names_of(splits["train"]) == ["AF", "SR"]
    assert [labels_of(splits)[f"r{index:02}"] for index in range(3)] == [[1, 0], [0, 1], [-100, -100]]


_CLASSES = {"label_column": "dx", "problem_type": "single_label_classification"}
ODD_LABELS = {
    "several classes": (
        {"dx": [["AF", "SR"], ["AF"]] * 15},
        _CLASSES,
        r"one class, or a list of one, .* not in row 1 ",
    ),
    "no class": (
        {"dx": ["[]", "AF"] * 15},
        _CLASSES,
        r"one class, .* or empty \(unknown\); it is not in row 1 \('\[\]'",
    ),
    "nested": (
        {"dx": [[["AF"], ["MI", "PAC"]], ["AF"]] * 15},
        {"label_column": "dx"},
        "must be codes, or a flat list",
    ),
    "nested text": ({"dx": ["[['AF']]", "AF"] * 15}, {"label_column": "dx"}, r"row 1 \(\"\[\['AF'\]\]\"\)"),
    "two separators": (
        {"dx": ["AF;MI", "AF|MI", "AF"] * 10},
        {"label_column": "dx"},
        r"one separator .* in all rows; it is not in row 2 \('AF\|MI'\), row 5",
    ),
    "lists as 0 and 1": (
        {"MI": [[0, 1]] * 30},
        {"label_columns": ["MI"]},
        r"must be 0, 1 or empty.*row 1 \(\[0, 1\]\)",
    ),
    "a number beyond float32": (
        {"age": ["1e300", "50"] * 15},
        {"label_columns": ["age"], "problem_type": "regression"},
        r"must be below 3e38, as float32 has it; it is not in row 1 \('1e300'\)",
    ),
    "a long cell": ({"MI": ["x" * 9999] * 30}, {"label_columns": ["MI"]}, r"row 1 \('x{56}\.\.\.\), row 2"),
    "labels as text": ({}, {"label_column": "AF", "labels": "AF"}, "`labels` must be a list of names, got 'AF'"),
    "labels of numbers": (
        {},
        {"label_column": "AF", "labels": ["AF"], "problem_type": "regression"},
        "`labels` names codes or classes",
    ),
    "the split": (
        {"part": ["train", "test"] * 15},
        {"label_column": "part", "split_column": "part"},
        "`part` cannot be a label and also name",
    ),
    "codes with a slash": (
        {"codes": ["AF", "AF/MI", "MI"] * 10},
        {"label_column": "codes"},
        r"one separator \(; \| or ,\) in all rows; it is not in row 2 \('AF/MI'\), row 5",
    ),
    **{
        f"rows of zeros and ones {number}": (
            {"dx": cells * 15},
            {"label_column": "dx"},
            "`dx` of the frame has lists of zeros and ones, .* name these columns by `label_columns`",
        )
        for number, cells in enumerate(
            ([[1.0, 0.0, 0.0], [0.0, 1.0, 0.0]], [[1, 0], [0, 1]], [[0.0], [1.0]], ["[True]", "[False]"])
        )
    },
    **{
        f"dictionaries of zeros and ones {number}": (
            {"dx": cells * 15},
            {"label_column": "dx"},
            "`dx` of the frame has dictionaries of zeros and ones, .* name these columns by `label_columns`",
        )
        for number, cells in enumerate(
            (
                [{"AF": 1, "MI": 0}, {"AF": 0.0, "MI": 1.0}],
                ["{'AF': True, 'MI': False}", "{'AF': False, 'MI': False}"],
                ['{"AF": "true", "MI": false}', "[]"],
                [{"AF": None, "MI": None}, {}],
            )
        )
    },
    "a class in a dictionary that cannot be read": (
        {"dx": ["{'AF': Decimal('100')}", "MI"] * 15},
        _CLASSES,
        r"must be one class, or a list of one, .*; it is not in row 1 \(\"{'AF': Dec",
    ),
    "dictionaries that cannot be read": (
        {"dx": ["{'AF': Decimal('100')}", "{'MI': 50.0}"] * 15},
        {"label_column": "dx"},
        r"must be codes, or a flat list of codes; it is not in row 1 \(\"{'AF': Dec",
    ),
    "codes with a wide semicolon": (
        {"codes": ["AF", "AF；MI", "MI"] * 10},
        {"label_column": "codes"},
        r"it is not in row 2 \('AF；MI'\), row 5",
    ),
    "codes with blanks": (
        {"codes": ["AF", "AF MI", "MI"] * 10},
        {"label_column": "codes"},
        r"it is not in row 2 \('AF MI'\), row 5",
    ),
    "the patient": ({}, {"label_columns": "A*", "patient_column": "AF"}, "`AF` cannot be a label and also name"),
    "unit": ({}, {"label_columns": ["AF"], "units": "bananas"}, "^`units` of the frame, row 1, is in 'bananas'; .*mV"),
    "unit of a row": ({"units": ["mV", "", "kV"] * 10}, {"label_columns": ["AF"]}, "^`units` of the frame, row 3, is"),
    "no leads": ({}, {"label_columns": ["AF"], "lead_names": []}, "expected leads, each once"),
    "share": ({}, {"label_columns": ["AF"], "max_skipped": 2}, r"`max_skipped` must lie in \[0, 1\), got 2"),
    "processes": ({}, {"label_columns": ["AF"], "num_proc": 0}, "`num_proc` must be at least 1, got 0"),
}


@pytest.mark.parametrize("fault", ODD_LABELS)
def test_what_cannot_be_meant_is_refused_in_one_line(fault, options):
    columns, given, message = ODD_LABELS[fault]
    with pytest.raises(ValueError, match=message) as caught:
        load_ecg_dataset(frame(**columns), **given, **options)
    assert len(str(caught.value)) < 1500 and "\n" not in str(caught.value)


def test_thousands_beside_decimal_commas_are_refused(folder, options):
    table = frame(age=["52,0", "3.068"] * 15)
    table.to_csv(folder / "thousands.csv", index=False, sep=";")
    with pytest.raises(
        ValueError, match=r"must be written with a comma, as others are; it is not in row 2 \('3.068'\)"
    ):
        load_ecg_dataset(folder / "thousands.csv", label_columns=["age"], problem_type="regression", **options)


@pytest.mark.parametrize("mark", [".", ","])
@pytest.mark.parametrize("name", ["BNP", "sampling_rate"])
def test_thousands_beside_whole_numbers_are_refused(mark, name, folder, options):
    said = {"BNP": "500", **{name: ["500", f"1{mark}500", "", f"12{mark}000"] * 7 + ["500", "200"]}}
    frame(**said).to_csv(folder / "thousands.csv", index=False, sep=";")
    with pytest.raises(ValueError, match=rf"`{name}` .* mark behind the thousands, .* row 2 \('1\{mark}500'\), row 4"):
        load_ecg_dataset(folder / "thousands.csv", label_columns=["BNP"], problem_type="regression", **options)
    # With other decimals beside them, or without whole numbers, these are none.
    for values in (["1,705", "1,68", "2"] * 10, ["1,705", "1,680", "2,000"] * 10, ["0,705", "1,680", "2"] * 10):
        frame(height=values).to_csv(folder / "heights.csv", index=False, sep=";")
        splits = load_ecg_dataset(
            folder / "heights.csv", label_columns=["height"], problem_type="regression", **options
        )
        assert labels_of(splits)["r02"] == [2]


# ---- Paths and files ----


def test_paths_from_windows(options):
    table = frame()
    table["path"] = table["path"].str.replace("/", "\\")
    assert len(labels_of(load_ecg_dataset(table, label_columns=["AF"], **options))) == NUM_RECORDS
    table.loc[3, "path"] = "sig\\..\\..\\r03"
    with pytest.raises(ValueError, match="outside of the folder .* in row 4"):
        load_ecg_dataset(table, label_columns=["AF"], **options)


def test_one_record_under_two_paths_is_refused(folder, options):
    table = frame()
    table.loc[5, "path"] = str(folder / "sig/r04.hea")
    with pytest.raises(ValueError, match=r"names a record again in row 6 \('/"):
        load_ecg_dataset(table, label_columns=["AF"], **options)


def test_a_name_in_quotes_does_not_decide_the_separator(folder, options):
    lines = [f"{path};{af};x" for path, af in frame().itertuples(index=False)]
    (folder / "quoted.csv").write_text("\n".join(['path;AF;"flutter, fibrillation, other"', *lines, ";;", ";;"]))
    found = labels_of(load_ecg_dataset(folder / "quoted.csv", label_columns=["AF"], **options))
    assert found["r01"] == [1] and len(found) == NUM_RECORDS  # and the empty rows of a spreadsheet are none


@pytest.mark.parametrize("first", ["sep=;", '"sep=;";;', "\ufeffsep=;", "SEP=\t"])
def test_the_line_by_which_excel_states_the_separator_is_none_of_the_table(first, folder, model, options, capsys):
    mark = first[-1] if first[-1] == "\t" else ";"
    frame(age=54.5).to_csv(folder / "table.csv", index=False, sep=mark, decimal=",")
    table = folder / "excel.csv"
    table.write_text(f"{first}\r\n{(folder / 'table.csv').read_text()}", encoding="utf-8")
    splits = load_ecg_dataset(table, label_columns=["age"], problem_type="regression", **options)
    found = labels_of(splits)
    assert found["r01"] == [54.5] and len(found) == NUM_RECORDS
    cli.main(["classify", str(table), "--data_dir", str(folder), "--model", str(model), "--format", "jsonl"])
    assert len(capsys.readouterr().out.splitlines()) == NUM_RECORDS


def test_labels_that_look_alike_are_told(options, caplog):
    load_ecg_dataset(frame(dx=["AF", "af", "SR", "SB"] * 7 + ["AF", "Af"]), label_column="dx", **options)
    assert "upper and lower case alone: 'AF' and 'Af' and 'af'. Each is a label of its own" in caplog.text
    caplog.clear()
    alike = ["Bl\u00f6ck", "Blo\u0308ck", "AF", "AF\u200b", "SR"]
    load_ecg_dataset(frame(dx=alike * 6), label_column="dx", **options)
    assert r"labels that look the same, or differ" in caplog.text
    assert r"alone: 'AF' and 'AF\u200b', 'Blo\u0308ck' and 'Bl\xf6ck'." in caplog.text
    caplog.clear()
    load_ecg_dataset(frame(dx=["AF", "SR"] * 15), label_column="dx", **options)
    assert "case" not in caplog.text


@pytest.mark.parametrize("cell", ['["I", "II"]', "['I' 'II']", "(I, II)", "I;II", "'I'|'II'"])
def test_names_of_leads_in_a_cell_in_any_writing(cell, options):
    splits = load_ecg_dataset(frame(lead_names=cell), label_columns=["AF"], **options)
    assert splits["train"][0]["lead_names"] == ["I", "II"]


@pytest.mark.parametrize("content", ["path,AF\nsig/r00,1\n".encode("utf-16"), b"PK\3\4\x14\0\6\0" + bytes(99)])
def test_a_spreadsheet_is_not_read_as_text(content, tmp_path):
    (tmp_path / "table.csv").write_bytes(content)
    with pytest.raises(ValueError, match="is no text in UTF-8 .*: save it as CSV"):
        load_ecg_dataset(tmp_path / "table.csv", label_columns=["AF"])


def test_exactly_the_share_that_may_be_skipped_is(tmp_path):
    """0.29 * 100 is below 29."""
    rng = np.random.default_rng(0)
    signals = [None if index < 29 else rng.normal(0, 1, (1, 300)).tolist() for index in range(100)]
    table = datasets.Dataset.from_dict({"signal": signals, "AF": [0, 1] * 50})
    splits = load_ecg_dataset(
        table,
        record_column="signal",
        label_columns=["AF"],
        sampling_rate=100,
        lead_names=["I"],
        max_skipped=0.29,
        cache_dir=tmp_path,
    )
    assert sum(map(len, splits.values())) == 71


# ---- What the cache must not keep ----


@pytest.fixture
def npy_records(tmp_path):
    rng = np.random.default_rng(0)
    for index in range(10):
        np.save(tmp_path / f"a{index}.npy", rng.normal(0, 1, (2, 600)))
    return pd.DataFrame({"path": [f"a{index}.npy" for index in range(10)], "AF": [0, 1] * 5})


def first_of(table, folder, **given):
    splits = load_ecg_dataset(table, label_columns=["AF"], data_dir=folder, cache_dir=folder / "cache", **given)
    return splits["train"][0]


def test_rows_said_to_be_otherwise_are_other_rows(npy_records, tmp_path):
    said = {"sampling_rate": 250, "units": "mV", "lead_names": ["I", "II"]}
    first = first_of(npy_records, tmp_path, **said)
    slow = first_of(npy_records, tmp_path, **{**said, "sampling_rate": 100})
    swapped = first_of(npy_records, tmp_path, **{**said, "lead_names": ["V1", "I"]})
    assert (first["sampling_rate"], slow["sampling_rate"]) == (250, 100)
    assert first["signal"] == slow["signal"] == swapped["signal"] and swapped["lead_names"] == ["V1", "I"]


@pytest.mark.parametrize("kind", ["npy", "mat", "h5"])
def test_a_corrected_sidecar_is_read_again(kind, tmp_path):
    rng = np.random.default_rng(0)
    signals = rng.normal(0, 500, (10, 2, 600)).astype(np.int16)
    paths = [f"a{index}.{kind}" for index in range(10)]
    names = paths
    if kind == "h5":
        with pytest.importorskip("h5py").File(tmp_path / "all.h5", "w") as file:
            file["tracings"] = signals.transpose(0, 2, 1)
        paths, names = [f"all.h5#row={index}" for index in range(10)], ["all.h5"]
    for path, signal in zip(paths, signals, strict=True):
        if kind == "npy":
            np.save(tmp_path / path, signal)
        elif kind == "mat":
            scipy.io.savemat(tmp_path / path, {"val": signal})
    table = pd.DataFrame({"path": paths, "AF": [0, 1] * 5})
    for rate, leads in ((250, ["I", "II"]), (500, ["I", "V1"])):
        for name in names:
            text = json.dumps({"sampling_rate": rate, "units": "uV", "lead_names": leads})
            (tmp_path / name).with_suffix(".json").write_text(text)
        row = first_of(table, tmp_path)
        assert (row["sampling_rate"], row["lead_names"]) == (rate, leads)


def test_a_record_is_read_again_when_any_of_its_signal_files_changes(tmp_path):
    signal = np.random.default_rng(0).integers(-1000, 1000, (2, 600)).astype("<i2")
    lines = [
        f"{file}.dat 16 1000/mV 16 0 0 {row.sum() % 2**16} 0 {lead}"
        for file, row, lead in zip(("a", "b"), signal, ("I", "II"), strict=True)
    ]
    (tmp_path / "a.hea").write_text("\n".join(["a 2 250 600", *lines]))
    signal[0].tofile(tmp_path / "a.dat")
    for index in range(1, 10):
        np.save(tmp_path / f"a{index}.npy", signal / 1000)
    table = pd.DataFrame({"path": ["a", *(f"a{index}.npy" for index in range(1, 10))], "AF": [0, 1] * 5})
    table[["sampling_rate", "units", "lead_names"]] = [250, "mV", "I II"]
    for second in (signal[1], signal[1][::-1]):  # with the same checksum
        second.tofile(tmp_path / "b.dat")
        splits = load_ecg_dataset(
            table, label_columns=["AF"], data_dir=tmp_path, cache_dir=tmp_path / "cache", split_fractions=(1, 0, 0)
        )
        assert splits["train"][0]["signal"] == [*signal[0], *second]


def test_records_that_were_skipped_for_want_of_a_package_are_read_once_it_is_there(tmp_path, monkeypatch):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "all.h5", "w") as file:
        file["tracings"] = np.random.default_rng(0).normal(0, 1, (10, 600, 2)).astype(np.float32)
    table = pd.DataFrame({"path": [f"all.h5#row={index}" for index in range(10)], "AF": [0, 1] * 5})
    said = {"sampling_rate": 250, "units": "mV", "lead_names": ["I", "II"]}
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "h5py", None)
        with pytest.raises(ValueError, match="needs the package h5py"):
            first_of(table, tmp_path, **said)
    assert first_of(table, tmp_path, **said)["lead_names"] == ["I", "II"]


# ---- The same split, whatever is done to the table ----


@pytest.mark.parametrize("seed", range(3))
def test_neither_the_order_of_rows_nor_of_labels_moves_a_record_to_the_test(seed, options):
    table = frame(MI=[int(index % 3 == 0) for index in range(NUM_RECORDS)], PAC=[1, 0, 0, 0, 1] * 6)
    splits = load_ecg_dataset(table, label_columns=["AF", "MI", "PAC"], **options)
    table = table.sample(frac=1, random_state=seed)
    again = load_ecg_dataset(table, label_columns=["PAC", "AF", "MI"], **options)
    for name in ("train", "validation", "test"):
        assert sorted(splits[name]["ecg_id"]) == sorted(again[name]["ecg_id"])


# ---- At the commands ----


def run(capsys, *argv):
    """What a command says on stderr, and its exit code."""
    with pytest.raises(SystemExit) as end:
        cli.main(list(map(str, argv)))
    return capsys.readouterr().err.strip().splitlines(), end.value.code


@pytest.fixture(scope="module")
def model(folder, options):
    frame(MI=[0, 0, 1] * 10).to_csv(folder / "mine.csv", index=False)
    output = folder / "run"
    cli.train(train_flags(folder, "mine.csv", output))
    return output


def train_flags(folder, table, output, *more):
    flags = ["--table", folder / table, "--label_columns", "AF", "MI", "--output_dir", output, "--stages", "probe"]
    quick = ["--use_cpu", "true", "--probe_num_train_epochs", 1, "--num_bootstrap_resamples", 10]
    encoder = ["--model_name_or_path", ENCODER, "--cache_dir", folder / "cache"]
    return [str(flag) for flag in (*flags, *quick, *encoder, *more)]


def test_training_where_nothing_is_known_is_refused(folder, tmp_path, capsys):
    empty = frame(part=["train"] * 10 + ["validation", "test"] * 10, MI=[None] * 10 + [0, 0, 1, 1] * 5)
    empty.loc[:9, "AF"] = None
    empty.to_csv(folder / "empty.csv", index=False)
    lines, code = run(capsys, "train", *train_flags(folder, "empty.csv", tmp_path / "x", "--split_column", "part"))
    assert code == 2 and not any((tmp_path / "x").rglob("*"))
    assert lines[-1].endswith("Nothing is known of the 10 training records: all of their labels are empty.")


def test_evaluation_where_nothing_is_known_is_refused(folder, model, tmp_path, capsys):
    frame(AF=[None] * 30, MI=[None] * 30).to_csv(folder / "nothing.csv", index=False)
    flags = ["--test_table", folder / "nothing.csv", "--label_columns", "AF", "MI", "--cache_dir", folder / "cache"]
    places = ["--model_name_or_path", model, "--output_dir", tmp_path / "x", "--use_cpu", "true"]
    lines, code = run(capsys, "evaluate", *map(str, (*flags, *places)))
    assert code == 2 and not (tmp_path / "x").exists()
    assert lines[-1].endswith("Nothing is known of the 30 test records: all of their labels are empty.")


def test_evaluation_says_which_labels_are_missing(folder, model, tmp_path, capsys):
    others = [f"X{number:02}" for number in range(12)]
    frame(**dict.fromkeys(others, [0, 1] * (NUM_RECORDS // 2))).to_csv(folder / "others.csv", index=False)
    flags = ["--model_name_or_path", model, "--output_dir", tmp_path / "x", "--cache_dir", folder / "cache"]
    for columns, message in (
        (["AF"], "The records have 1 labels, the model 2 (only the model: MI): add the others as empty"),
        (others, f"(only the records: {', '.join(others[:10])} and 2 more; only the model: AF, MI): name them as the"),
    ):
        lines, code = run(capsys, "evaluate", "--table", folder / "others.csv", "--label_columns", *columns, *flags)
        assert code == 2 and message in lines[-1]


def test_another_draw_of_the_split_is_warned_of(folder, model, tmp_path, caplog):
    table = frame(who=[f"p{index}" for index in range(NUM_RECORDS)])
    table.to_csv(folder / "drawn.csv", index=False)
    given = ["--table", folder / "drawn.csv", "--cache_dir", folder / "cache", "--label_columns", "AF"]
    given += ["--patient_column", "who"]
    run, fast = tmp_path / "run", ["--stages", "probe", "--probe_num_train_epochs", "1", "--use_cpu", "true"]
    cli.train([str(word) for word in [*given, "--model_name_or_path", model, "--output_dir", run, *fast]])
    judged = [*given, "--model_name_or_path", run, "--use_cpu", "true", "--num_bootstrap_resamples", 10]
    own, other = ["--split_seed", 0, "--report", "false"], ["--split_seed", 1, "--report", "false"]
    beside = ["--test_table", folder / "drawn.csv", "--split_seed", 1]  # thresholds are chosen on another draw, too
    said = r"(\w+) records \d+ have the names of (\w+) that .* has learned from"
    both = [("test", "records"), ("validation", "records")]
    for number, (flags, warned) in enumerate(((own, []), (other, both[:1]), (beside, both))):
        caplog.clear()
        cli.evaluate([str(word) for word in [*judged, *flags, "--output_dir", tmp_path / f"e{number}"]])
        assert re.findall(said, caplog.text) == warned
    for flags, warned in ((["--split_seed", 0], []), (["--split_seed", 1], both[::-1])):  # a run that goes on from it
        caplog.clear()
        more = [*flags, "--output_dir", tmp_path / "more", *fast, "--dry_run", "true"]
        cli.train([str(word) for word in [*given, "--model_name_or_path", run, *more]])
        assert re.findall(said, caplog.text) == warned
    # New records of the same patients.
    learned = pd.read_csv(run / "splits.csv").query("split == 'train'")["patient_id"].tolist()
    tested = table[~table["who"].isin(learned)]
    tested.assign(who=learned[: len(tested)]).to_csv(folder / "later.csv", index=False)
    caplog.clear()
    later = [*judged[2:], "--test_table", folder / "later.csv", "--report", "false"]
    cli.evaluate([str(word) for word in [*later, "--output_dir", tmp_path / "later"]])
    assert re.findall(said, caplog.text) == [("test", "patients")]
    for flag, value in (("train_fraction", 0.5), ("max_train_records", 5), ("evaluate_test", "false")):
        with pytest.raises(ValueError, match=f"`--{flag}` is for training: leave it out"):
            cli.evaluate([str(word) for word in [*judged, f"--{flag}", value, "--output_dir", tmp_path / "no"]])


def test_the_recipe_of_a_run_gives_the_same_weights_again(folder, model, tmp_path):
    of_this_machine = ["--table", folder / "mine.csv", "--model_name_or_path", ENCODER, "--output_dir", tmp_path]
    here = ["--use_cpu", "true", "--cache_dir", folder / "cache"]
    cli.train([str(flag) for flag in ("--config", model / "recipe.yaml", *of_this_machine, *here)])
    first, again = (load_file(path / "model.safetensors") for path in (model, tmp_path))
    assert all(torch.equal(again[name], first[name]) for name in first)


BAD_CALLS = {
    "device": (["--device", "gpu9"], r"`device` 'gpu9' cannot be used here \(.*\): give cpu, cuda or cuda:1"),
    "unit": (["--units", "kV"], "`units` is in 'kV'; the unit must be V, mV, uV or nV"),
    "rate": (["--sampling_rate", "-3"], r"`sampling_rate` must be a number of Hz above 0, got -3\.0"),
    "leads": (["--lead_names", "I", "I"], "`lead_names` must list some of I II .* each once"),
}


@pytest.mark.parametrize("fault", BAD_CALLS)
def test_a_flag_that_fits_no_record_ends_the_command_with_one_line(fault, folder, model, capsys):
    flags, message = BAD_CALLS[fault]
    lines, code = run(capsys, "classify", folder / "sig", "--model", model, *flags)
    assert code == 2 and len(lines) == 1 and re.search(message, lines[0])


def test_a_table_that_was_taken_for_a_record_says_what_to_do(folder, model, capsys):
    frame().rename(columns={"path": "file"}).to_csv(folder / "file.csv", index=False)
    lines, _ = run(capsys, "classify", folder / "file.csv", "--model", model)
    assert lines[0].endswith("If it is a table of records, name its column of paths by `--record_column`.")


# ---- Signals ----


def test_signals_find_their_labels_after_any_selection(tmp_path):
    rng = np.random.default_rng(0)
    signals = rng.normal(0, 0.5, (20, 1, 400)).astype(np.float32)
    table = datasets.Dataset.from_dict({"signal": list(signals), "AF": [index % 2 for index in range(20)]})
    given = {"record_column": "signal", "label_columns": ["AF"], "sampling_rate": 100, "lead_names": ["I"]}
    order = rng.permutation(20)
    halved = datasets.Dataset.from_dict({"signal": list(signals / 2), "AF": table["AF"][:]})
    forms = {
        "plain": (table, range(20), 1),
        "select": (table.select(order), order, 1),
        "halved": (halved, range(20), 2),
    }
    for name, (form, rows, factor) in forms.items():
        splits = load_ecg_dataset(form, **given, split_fractions=(1, 0, 0), cache_dir=tmp_path)
        for row, source in zip(splits["train"], rows, strict=True):
            assert row["labels"] == [source % 2], name
            assert np.abs(np.array(row["signal"]) - signals[source, 0] * 1000 / factor).max() <= 0.51, name


@pytest.mark.parametrize("fault", ["a frame", "bytes", "a list for each lead", "an empty id"])
def test_signals_that_are_not_in_a_data_set_with_ids_are_refused(fault, tmp_path):
    columns = {"signal": [[[0.1, 0.2, 0.3]]] * 10, "AF": [0, 1] * 5}
    others = {"bytes": [b"\x8e\x02\xff" * 4000] * 10, "a list for each lead": [{"I": [0.1, 0.2]}] * 10}
    if fault in others:
        datasets.Dataset.from_dict({**columns, "signal": others[fault]}).to_parquet(tmp_path / "table.parquet")
    table, message = {
        "a frame": (pd.DataFrame(columns), r"`signal` of the frame holds neither .*: give `Dataset.from_pandas"),
        **dict.fromkeys(others, (tmp_path / "table.parquet", "table.parquet holds neither paths nor signals")),
        "an empty id": (
            datasets.Dataset.from_dict({**columns, "ecg_id": [None, *range(9)]}),
            r"`ecg_id` of the data set is empty in row 1 \(None\)",
        ),
    }[fault]
    given = {"record_column": "signal", "label_columns": ["AF"], "sampling_rate": 100, "lead_names": ["I"]}
    with pytest.raises(ValueError, match=message):
        load_ecg_dataset(table, **given, cache_dir=tmp_path)


READING = """
import sys
import time
from ecg_hf import load_ecg_dataset
from ecg_hf.tables import store
store.RECORDS_PER_FILE = 2
said = dict(sampling_rate=250, units="mV", lead_names=["I", "II"])
load_ecg_dataset(sys.argv[1], label_columns=["AF"], num_proc=2, cache_dir=sys.argv[2], **said)
"""


def test_the_processes_that_read_end_with_the_one_that_is_killed(npy_records, tmp_path):
    """The pipe of stderr ends only once no process holds it any more."""
    npy_records.to_csv(tmp_path / "table.csv", index=False)
    code = READING.replace("store.REC", "import time; store.usable_record = lambda *_: time.sleep(0.5)\nstore.REC")
    reading = subprocess.Popen(
        [sys.executable, "-c", code, tmp_path / "table.csv", tmp_path / "cache"],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stderr=subprocess.PIPE,
    )
    while not list(tmp_path.glob("cache/ecg_records/*")):
        assert reading.poll() is None
        time.sleep(0.05)
    reading.kill()
    reading.communicate(timeout=30)


# ---- Saved data sets, and what is published ----


def test_a_saved_data_set_is_a_table_for_classify_too(folder, model, tmp_path, capsys):
    table = datasets.Dataset.from_pandas(frame())
    splits = datasets.DatasetDict({"train": table.select(range(4)), "test": table.select(range(4, 6))})
    for saved, count in ((table.select(range(3)), 3), (splits, 6)):
        saved.save_to_disk(tmp_path / f"saved-{count}")
        flags = ["--data_dir", folder, "--model", model, "--format", "jsonl"]
        capsys.readouterr()
        cli.classify([str(flag) for flag in (tmp_path / f"saved-{count}", *flags)])
        lines = capsys.readouterr().out.splitlines()
        assert [json.loads(line)["record"] for line in lines] == frame()["path"][:count].tolist()


@pytest.mark.parametrize("part", ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"])
def test_a_saved_data_set_that_was_cut_off_is_refused(part, tmp_path):
    datasets.Dataset.from_pandas(frame()).save_to_disk(tmp_path / "saved")
    content = (tmp_path / "saved" / part).read_bytes()
    (tmp_path / "saved" / part).write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match="saved is not a whole folder of `datasets`"):
        load_ecg_dataset(tmp_path / "saved", label_columns=["AF"])


def test_what_is_published_names_no_record_and_no_place(folder, model, tmp_path):
    assert "sig/r" in (model / "test_predictions.csv").read_text()  # what the run itself keeps
    cli.release([str(model), "--output_dir", str(tmp_path / "mine")])
    files = [path for path in (tmp_path / "mine").rglob("*") if path.is_file()]
    assert {"README.md", "metrics.json", "recipe.yaml", "model.safetensors"} <= {path.name for path in files}
    for path in files:
        content = path.read_bytes()
        assert b"sig/r" not in content and str(folder).encode() not in content, path.name
