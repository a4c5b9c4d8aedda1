"""The checkpoints that ship, by their names: in a wheel the default classifier, in a checkout all of `hub_cards/`."""

from __future__ import annotations

import os
import pathlib
import re

DEFAULT_CLASSIFIER = "ecg-transformer-ptbxl-100hz-all"
"""Answers where no model is named; the wheel holds it as `ecg_hf/checkpoints/<name>`, see pyproject.toml."""

SHIPPED = (
    "ecg-transformer-ptbxl-100hz",
    "ecg-transformer-ptbxl-100hz-reports",
    DEFAULT_CLASSIFIER,
    "ecg-transformer-ptbxl-100hz-superdiagnostic",
)

PACKAGE = pathlib.Path(__file__).parent
PLACES = (PACKAGE / "checkpoints", PACKAGE.parent / "hub_cards")
"""In a wheel, and in a checkout or an editable install."""


def located(name: str | os.PathLike | None) -> str | os.PathLike | None:
    """The folder of a checkpoint that ships, for its name; whatever else is given comes back as it is.

    A path that exists wins, as everywhere in transformers. Raises `FileNotFoundError` for a name of `SHIPPED` that is
    not part of this installation.
    """
    if name is None or os.path.exists(name) or not re.fullmatch(r"\w[\w.-]*", os.fspath(name)):
        return name
    for place in PLACES:
        if (place / name / "config.json").is_file():
            return str(place / name)
    if os.fspath(name) in SHIPPED:
        raise FileNotFoundError(
            f"The checkpoint `{name}` is not part of this installation of ecg_hf, which has "
            f"{', '.join(installed()) or 'none'}: copy the folder `hub_cards/{name}` from the repository of ecg_hf, "
            "and give its path."
        )
    return name


def installed() -> list[str]:
    """The names of the checkpoints of this installation."""
    return sorted({file.parent.name for place in PLACES for file in place.glob("*/config.json")})


__all__ = ["DEFAULT_CLASSIFIER", "SHIPPED", "installed", "located"]
