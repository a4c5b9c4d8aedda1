"""What cards say of public data sets, where it is certain that the records are theirs."""

from __future__ import annotations

from typing import NamedTuple

import datasets


class Published(NamedTuple):
    """Fields of `datasets.DatasetInfo`."""

    homepage: str
    license: str
    citation: str


CHALLENGE_2021 = Published(
    "https://physionet.org/content/challenge-2021/1.0.3/",
    "CC BY 4.0",
    "Reyna et al. 2021, Will Two Do? Varying Dimensions in Electrocardiography: The PhysioNet/Computing in Cardiology "
    "Challenge 2021, doi 10.23919/CinC53138.2021.9662687",
)
CODE15 = Published(
    "https://doi.org/10.5281/zenodo.4916206",
    "CC BY 4.0",
    "Ribeiro et al. 2021, CODE-15%: a large scale annotated dataset of 12-lead ECGs, doi 10.5281/zenodo.4916206",
)


def note_source(splits: datasets.DatasetDict, source: Published) -> None:
    """Write homepage, licence and citation into the splits, from where cards take them."""
    for dataset in splits.values():
        dataset.info.homepage, dataset.info.license, dataset.info.citation = source


__all__ = ["CHALLENGE_2021", "CODE15", "Published", "note_source"]
