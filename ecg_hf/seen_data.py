"""Whether a model has seen the records that judge it, by what its provenance and the records' names tell."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

OWN_RECORDS = "own records"
UNNAMED_RECORDS = "unnamed records"
PTBXL_TRAINING = "PTB-XL's folds 1 to 8"
"""How the provenance of a checkpoint names PTB-XL's training folds."""
UNKNOWN_FOLD = "unknown"
"""Among the folds of PTB-XL in a provenance: records of which it is not known whether, and where, they are in it."""

# The Challenges of 2020 and 2021 consist of these sets, PTB-XL among them.
_CHALLENGE = r"(challenge|cinc)\W{0,3}(20)?2[01]\b"
_CHALLENGE_SETS = ("cpsc", "incart", r"\bptb\b(?!-xl)", "georgia", "chapman", "ningbo")


def joined(names: Iterable[str] | str | None) -> str | None:
    """Names of data sets as text."""
    return names if names is None or isinstance(names, str) else ", ".join(names)


def reports_in_words(reports: str | None) -> str | None:
    """What a card says of pre-training by reports, of which a provenance has `pretraining_reports`."""
    if reports is None:
        return None
    # Of own records it is not known whether labels were made from their reports.
    made = "PTB-XL's statements were made" if "PTB-XL" in reports else "Where labels were made"
    link = "so this" if "PTB-XL" in reports else "this"
    return (
        f"Supervised by the words of the reports ({reports}). {made} from these reports, {link} is weak supervision, "
        "not label-free learning."
    )


def saw(provenance: Mapping[str, Any], data: Mapping[str, Any]) -> bool | None:
    """Whether the pre-training data include the evaluation data; None if that is not known."""
    text, data_name = joined(provenance.get("pretraining_data")), data["name"]
    folds = provenance.get("ptbxl_folds")
    if data_name == "PTB-XL" and folds is not None:
        judging = judged(data)
        if judging & set(folds) - {UNKNOWN_FOLD}:
            return True
        if UNKNOWN_FOLD not in judging | set(folds):
            return False
    others = (text or "").replace(PTBXL_TRAINING, "").casefold()
    # The PhysioNet/CinC Challenges of 2020 and 2021 contain PTB-XL.
    challenge = data_name == "PTB-XL" and re.search(_CHALLENGE, others)
    if text and (data_name.casefold() in others or challenge or _is_of_one_source(data_name.casefold(), others)):
        return True
    # Records without a name may be any.
    if (
        not text
        or UNKNOWN_FOLD in (folds or ())
        or OWN_RECORDS in others
        or data_name.startswith((OWN_RECORDS, UNNAMED_RECORDS))
        # The Challenges' copies of PTB-XL, which do not tell their folds.
        or ("PTB-XL" in data_name and data_name != "PTB-XL" and "ptb-xl" in text.casefold())
    ):
        return None
    return False


def judged(data: Mapping[str, Any]) -> set[int | str]:
    """The folds of PTB-XL that a model was evaluated on; runs that did not record them had the official ones."""
    of_split = data.get("ptbxl_folds", {"validation": [9], "test": [10]})
    return {fold for split, folds in of_split.items() if split != "train" for fold in folds}


def _is_of_one_source(data_name: str, others: str) -> bool:
    """Whether records of the Challenges, or of CODE-15 %, are named among other data sets, both in lower case."""
    if data_name.startswith("code-15"):
        return re.search(r"\bcode(-15|\b)", others) is not None
    if re.search(_CHALLENGE, data_name) is None:
        return False
    return re.search(_CHALLENGE, others) is not None or any(
        re.search(name, data_name) and re.search(name, others) for name in _CHALLENGE_SETS
    )


__all__ = [
    "OWN_RECORDS",
    "PTBXL_TRAINING",
    "UNKNOWN_FOLD",
    "UNNAMED_RECORDS",
    "joined",
    "judged",
    "reports_in_words",
    "saw",
]
