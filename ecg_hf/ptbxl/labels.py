"""The 71 SCP-ECG statements of PTB-XL and the six classification tasks made from them.

Source: ``scp_statements.csv`` of PTB-XL 1.0.3 (Wagner et al. 2020, doi 10.1038/s41597-020-0495-6, CC BY 4.0): its rows
in its order. The tasks are those of the PTB-XL benchmark (Strodthoff et al. 2020, doi 10.1109/JBHI.2020.3022989): a
statement counts as present whatever its likelihood, and a record without any statement of a task's kind takes no part
in that task. Labels are the sorted codes of the full table, so a subset of the records has the same labels.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import NamedTuple

import numpy as np


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
