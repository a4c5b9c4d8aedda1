import numpy as np
import pytest

from ecg_hf.ptbxl.labels import STATEMENTS, TASKS, encode_labels, task_label_names, task_labels

NUM_LABELS = {"all": 71, "diagnostic": 44, "subdiagnostic": 23, "superdiagnostic": 5, "form": 19, "rhythm": 12}


def test_the_tasks_have_the_benchmarks_numbers_of_labels():
    assert {task: len(task_labels(task)) for task in TASKS} == NUM_LABELS


@pytest.mark.parametrize("task", TASKS)
def test_labels_are_sorted_and_each_has_a_full_name(task):
    labels = task_labels(task)
    assert labels == sorted(labels)
    names = task_label_names(task)
    assert list(names) == labels
    # A code is no name.
    assert all(name and name != code for code, name in names.items())
    assert len(set(names.values())) == len(labels)


def test_classes_and_subclasses_have_the_names_of_the_data_papers_table_5():
    assert task_label_names("superdiagnostic") == {
        "CD": "conduction disturbance",
        "HYP": "hypertrophy",
        "MI": "myocardial infarction",
        "NORM": "normal ECG",
        "STTC": "ST/T change",
    }
    subclasses = task_label_names("subdiagnostic")
    assert subclasses["_AVB"] == "AV block"
    assert subclasses["LAFB/LPFB"] == "left anterior/left posterior fascicular block"
    assert subclasses["AMI"] == "anterior myocardial infarction"
    assert task_label_names("all")["AMI"] == "anterior myocardial infarction"


def test_the_table_is_that_of_ptbxl(ptbxl_100hz):
    import pandas as pd

    table = pd.read_csv(ptbxl_100hz / "scp_statements.csv", index_col=0)
    assert list(STATEMENTS) == list(table.index)
    for code, row in table.iterrows():
        statement = STATEMENTS[code]
        kinds = "".join(kind[0] for kind in ("diagnostic", "form", "rhythm") if row[kind] == 1)
        assert (statement.description, statement.kinds) == (row["description"], kinds)
        if "d" in kinds:
            classes = (statement.diagnostic_class, statement.diagnostic_subclass)
            assert classes == (row["diagnostic_class"], row["diagnostic_subclass"])


def test_codes_become_multi_hot_rows_whatever_their_likelihood():
    labels = encode_labels([{"NORM": 100.0, "SR": 0.0}, {"IMI": 15.0, "ASMI": 0.0, "3AVB": 80.0}], "superdiagnostic")
    assert labels.dtype == np.float32
    np.testing.assert_array_equal(labels, [[0, 0, 0, 1, 0], [1, 0, 1, 0, 0]])


def test_a_statement_of_two_kinds_counts_in_both_tasks():
    for task in ("diagnostic", "form"):
        (row,) = encode_labels([["NDT"]], task)
        assert [task_labels(task)[column] for column in np.flatnonzero(row)] == ["NDT"]


def test_a_record_without_a_statement_of_the_kind_is_a_row_of_zeros():
    np.testing.assert_array_equal(encode_labels([["SR"], [], ["ABQRS"]], "diagnostic"), np.zeros((3, 44)))


def test_no_records_give_no_rows():
    assert encode_labels([], "rhythm").shape == (0, 12)


def test_blanks_around_a_code_are_ignored():
    np.testing.assert_array_equal(encode_labels([{" IMI": 100.0}], "all"), encode_labels([{"IMI": 100.0}], "all"))


@pytest.mark.parametrize("code", ["imi", "XYZ", ""])
def test_a_code_that_is_not_in_the_table_is_an_error_that_names_it(code):
    with pytest.raises(ValueError, match=f"SCP code '{code}' is not one of PTB-XL's 71 statements"):
        encode_labels([["NORM"], [code]], "rhythm")


@pytest.mark.parametrize("function", [task_labels, task_label_names, lambda task: encode_labels([], task)])
def test_an_unknown_task_is_an_error_that_lists_the_tasks(function):
    with pytest.raises(ValueError, match="`task` must be one of all, diagnostic, .*, got `super`"):
        function("super")
