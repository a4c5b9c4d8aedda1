"""The 71 SCP-ECG statements of PTB-XL and the six classification tasks made from them.

Source: ``scp_statements.csv`` of PTB-XL 1.0.3 (Wagner et al. 2020, doi 10.1038/s41597-020-0495-6, CC BY 4.0), rows in
the same order; the names of classes and subclasses are from Table 5 of that paper. The tasks are those of the PTB-XL
benchmark (Strodthoff et al. 2020, doi 10.1109/JBHI.2020.3022989): a statement counts as present at any likelihood, and
a record without any statement of a task's kind is excluded from that task. Labels are the sorted codes of the full
table, so that any subset of the records has the same labels.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import NamedTuple

import numpy as np

from ..ecg_transformer.common_ecg_transformer import check_choice


class Statement(NamedTuple):
    """One row of ``scp_statements.csv``: `kinds` holds "d" (diagnostic), "f" (form) and "r" (rhythm)."""

    code: str
    description: str
    kinds: str
    diagnostic_class: str | None = None
    diagnostic_subclass: str | None = None


# fmt: off
_TABLE = (
    Statement("NDT", "non-diagnostic T abnormalities", "df", "STTC", "STTC"),
    Statement("NST_", "non-specific ST changes", "df", "STTC", "NST_"),
    Statement("DIG", "digitalis-effect", "df", "STTC", "STTC"),
    Statement("LNGQT", "long QT-interval", "df", "STTC", "STTC"),
    Statement("NORM", "normal ECG", "d", "NORM", "NORM"),
    Statement("IMI", "inferior myocardial infarction", "d", "MI", "IMI"),
    Statement("ASMI", "anteroseptal myocardial infarction", "d", "MI", "AMI"),
    Statement("LVH", "left ventricular hypertrophy", "d", "HYP", "LVH"),
    Statement("LAFB", "left anterior fascicular block", "d", "CD", "LAFB/LPFB"),
    Statement("ISC_", "non-specific ischemic", "d", "STTC", "ISC_"),
    Statement("IRBBB", "incomplete right bundle branch block", "d", "CD", "IRBBB"),
    Statement("1AVB", "first degree AV block", "d", "CD", "_AVB"),
    Statement("IVCD", "non-specific intraventricular conduction disturbance (block)", "d", "CD", "IVCD"),
    Statement("ISCAL", "ischemic in anterolateral leads", "d", "STTC", "ISCA"),
    Statement("CRBBB", "complete right bundle branch block", "d", "CD", "CRBBB"),
    Statement("CLBBB", "complete left bundle branch block", "d", "CD", "CLBBB"),
    Statement("ILMI", "inferolateral myocardial infarction", "d", "MI", "IMI"),
    Statement("LAO/LAE", "left atrial overload/enlargement", "d", "HYP", "LAO/LAE"),
    Statement("AMI", "anterior myocardial infarction", "d", "MI", "AMI"),
    Statement("ALMI", "anterolateral myocardial infarction", "d", "MI", "AMI"),
    Statement("ISCIN", "ischemic in inferior leads", "d", "STTC", "ISCI"),
    Statement("INJAS", "subendocardial injury in anteroseptal leads", "d", "MI", "AMI"),
    Statement("LMI", "lateral myocardial infarction", "d", "MI", "LMI"),
    Statement("ISCIL", "ischemic in inferolateral leads", "d", "STTC", "ISCI"),
    Statement("LPFB", "left posterior fascicular block", "d", "CD", "LAFB/LPFB"),
    Statement("ISCAS", "ischemic in anteroseptal leads", "d", "STTC", "ISCA"),
    Statement("INJAL", "subendocardial injury in anterolateral leads", "d", "MI", "AMI"),
    Statement("ISCLA", "ischemic in lateral leads", "d", "STTC", "ISCA"),
    Statement("RVH", "right ventricular hypertrophy", "d", "HYP", "RVH"),
    Statement("ANEUR", "ST-T changes compatible with ventricular aneurysm", "d", "STTC", "STTC"),
    Statement("RAO/RAE", "right atrial overload/enlargement", "d", "HYP", "RAO/RAE"),
    Statement("EL", "electrolytic disturbance or drug (former EDIS)", "d", "STTC", "STTC"),
    Statement("WPW", "Wolf-Parkinson-White syndrome", "d", "CD", "WPW"),
    Statement("ILBBB", "incomplete left bundle branch block", "d", "CD", "ILBBB"),
    Statement("IPLMI", "inferoposterolateral myocardial infarction", "d", "MI", "IMI"),
    Statement("ISCAN", "ischemic in anterior leads", "d", "STTC", "ISCA"),
    Statement("IPMI", "inferoposterior myocardial infarction", "d", "MI", "IMI"),
    Statement("SEHYP", "septal hypertrophy", "d", "HYP", "SEHYP"),
    Statement("INJIN", "subendocardial injury in inferior leads", "d", "MI", "IMI"),
    Statement("INJLA", "subendocardial injury in lateral leads", "d", "MI", "AMI"),
    Statement("PMI", "posterior myocardial infarction", "d", "MI", "PMI"),
    Statement("3AVB", "third degree AV block", "d", "CD", "_AVB"),
    Statement("INJIL", "subendocardial injury in inferolateral leads", "d", "MI", "IMI"),
    Statement("2AVB", "second degree AV block", "d", "CD", "_AVB"),
    Statement("ABQRS", "abnormal QRS", "f"),
    Statement("PVC", "ventricular premature complex", "f"),
    Statement("STD_", "non-specific ST depression", "f"),
    Statement("VCLVH", "voltage criteria (QRS) for left ventricular hypertrophy", "f"),
    Statement("QWAVE", "Q waves present", "f"),
    Statement("LOWT", "low amplitude T-waves", "f"),
    Statement("NT_", "non-specific T-wave changes", "f"),
    Statement("PAC", "atrial premature complex", "f"),
    Statement("LPR", "prolonged PR interval", "f"),
    Statement("INVT", "inverted T-waves", "f"),
    Statement("LVOLT", "low QRS voltages in the frontal and horizontal leads", "f"),
    Statement("HVOLT", "high QRS voltage", "f"),
    Statement("TAB_", "T-wave abnormality", "f"),
    Statement("STE_", "non-specific ST elevation", "f"),
    Statement("PRC(S)", "premature complex(es)", "f"),
    Statement("SR", "sinus rhythm", "r"),
    Statement("AFIB", "atrial fibrillation", "r"),
    Statement("STACH", "sinus tachycardia", "r"),
    Statement("SARRH", "sinus arrhythmia", "r"),
    Statement("SBRAD", "sinus bradycardia", "r"),
    Statement("PACE", "normal functioning artificial pacemaker", "r"),
    Statement("SVARR", "supraventricular arrhythmia", "r"),
    Statement("BIGU", "bigeminal pattern (unknown origin, SV or Ventricular)", "r"),
    Statement("AFLT", "atrial flutter", "r"),
    Statement("SVTAC", "supraventricular tachycardia", "r"),
    Statement("PSVT", "paroxysmal supraventricular tachycardia", "r"),
    Statement("TRIGU", "trigeminal pattern (unknown origin, SV or Ventricular)", "r"),
)
# fmt: on

STATEMENTS: dict[str, Statement] = {statement.code: statement for statement in _TABLE}
"""All 71 statements by code, in the order of PTB-XL's own table."""

_CLASS_NAMES = {
    "NORM": "normal ECG",
    "CD": "conduction disturbance",
    "HYP": "hypertrophy",
    "MI": "myocardial infarction",
    "STTC": "ST/T change",
}

# A subclass whose code is also that of a statement has the statement's name.
_SUBCLASS_NAMES = {
    "LAFB/LPFB": "left anterior/left posterior fascicular block",
    "_AVB": "AV block",
    "ISCA": "ischemic in anterior leads",
    "ISCI": "ischemic in inferior leads",
    "STTC": "ST-T changes",
}


def _code_if(kind: str) -> Callable[[Statement], str | None]:
    return lambda statement: statement.code if kind in statement.kinds else None


_LABEL_OF_STATEMENT: dict[str, Callable[[Statement], str | None]] = {
    "all": lambda statement: statement.code,
    "diagnostic": _code_if("d"),
    "subdiagnostic": lambda statement: statement.diagnostic_subclass,
    "superdiagnostic": lambda statement: statement.diagnostic_class,
    "form": _code_if("f"),
    "rhythm": _code_if("r"),
}

TASKS: tuple[str, ...] = tuple(_LABEL_OF_STATEMENT)
"""The six tasks: all statements, those of one kind, and the 5 classes and 23 subclasses of the diagnostic ones."""


def task_labels(task: str) -> list[str]:
    """The label codes of `task`, in label order: sorted, over the full table.

    There are 71, 44, 23, 5, 19 and 12 of them in the order of `TASKS`. Raises `ValueError` for another task.
    """
    labels = map(_label_of_statement(task), STATEMENTS.values())
    return sorted({label for label in labels if label is not None})


def task_label_names(task: str) -> dict[str, str]:
    """The full name of each label of `task` by its code, in label order; ``{"CD": "conduction disturbance", ...}``."""
    names = {code: statement.description for code, statement in STATEMENTS.items()}
    names |= {"superdiagnostic": _CLASS_NAMES, "subdiagnostic": _SUBCLASS_NAMES}.get(task, {})
    return {label: names[label] for label in task_labels(task)}


def find_statement(code: str) -> Statement:
    """The statement with this code, stripped of whitespace; `ValueError` if the table has none."""
    statement = STATEMENTS.get(code.strip())
    if statement is None:
        raise ValueError(f"SCP code {code!r} is not one of PTB-XL's {len(STATEMENTS)} statements.")
    return statement


def encode_labels(codes_per_record: Iterable[Collection[str]], task: str) -> np.ndarray:
    """Multi-hot labels, float32 (records, labels), from the SCP codes of each record.

    A row of zeros is a record without any statement of the task's kind. Raises `ValueError` for a code that is not in
    the table.
    """
    label_of_statement = _label_of_statement(task)
    columns = {label: column for column, label in enumerate(task_labels(task))}
    labels = bytearray()
    for codes in codes_per_record:
        row = bytearray(len(columns))
        for code in codes:
            label = label_of_statement(find_statement(code))
            if label is not None:
                row[columns[label]] = 1
        labels += row
    return np.frombuffer(labels, dtype=np.uint8).reshape(-1, len(columns)).astype(np.float32)


def _label_of_statement(task: str) -> Callable[[Statement], str | None]:
    check_choice("task", task, TASKS)
    return _LABEL_OF_STATEMENT[task]


__all__ = ["STATEMENTS", "TASKS", "Statement", "encode_labels", "find_statement", "task_label_names", "task_labels"]
