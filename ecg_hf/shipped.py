"""The checkpoints that ship, by their names: in a wheel the default classifier, in a checkout all of `hub_cards/`."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
from collections.abc import Iterator

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


@contextlib.contextmanager
def checkpoint_of(name: str | os.PathLike) -> Iterator[str | os.PathLike]:
    """A block that loads a checkpoint from the folder or the Hub id that it yields.

    Raises `FileNotFoundError` for a name that is neither a folder here, nor shipped, nor `owner/name` of the Hub,
    without asking the Hub, and for one that the Hub does not give.
    """
    place = located(name)
    if os.path.exists(place):
        yield place
        return
    ways = f"`{name}` is no folder here, and no checkpoint of this installation ({', '.join(installed()) or 'none'})"
    if not re.fullmatch(r"\w[\w.-]*/\w[\w.-]*", os.fspath(place)):
        raise FileNotFoundError(f"{ways}; an id of the Hub would be `owner/name`.")
    try:
        yield place
    except OSError as error:
        reason = str(error).strip().partition("\n")[0]
        raise FileNotFoundError(f"{ways}, and as an id of the Hub it cannot be loaded: {reason}") from error


def installed() -> list[str]:
    """The names of the checkpoints of this installation."""
    return sorted({file.parent.name for place in PLACES for file in place.glob("*/config.json")})


__all__ = ["DEFAULT_CLASSIFIER", "SHIPPED", "checkpoint_of", "installed", "located"]
