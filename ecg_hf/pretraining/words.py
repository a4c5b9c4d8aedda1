"""The words of reports: which of them an encoder is to tell from a record's crops, and how much each counts."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import torch

from ..ecg_transformer.common_ecg_transformer import UNKNOWN_LABEL
from ..ecg_transformer.targets_ecg_transformer import multilabel_loss

WORD_WEIGHTS = ("none", "rarity")
"""How much each word counts in the loss: all the same, or by the inverse square root of the number of its records."""


def words_of(text: str | None) -> set[str]:
    """The different words of a text in lower case: stretches of letters, digits and accents of any script.

    Accents that are written as signs of their own (NFD) become one with their letters (NFC).
    """
    letters = unicodedata.normalize("NFC", text or "").lower()
    return set("".join(sign if _is_of_a_word(sign) else " " for sign in letters).split())


def _is_of_a_word(sign: str) -> bool:
    # Vowels of some scripts are marks (M), which `isalnum` leaves out.
    return sign.isalnum() or unicodedata.category(sign).startswith("M")


class ReportWords:
    """The words that occur in at least `min_count` of some texts, one for each record, and which record has which.

    Attributes:
        words: in the order of the alphabet.
        counts (`np.ndarray` of shape `(words,)`): in how many texts each occurs.
        has_text (`np.ndarray` of shape `(records,)`): whether a record has a text with any word, listed or not.

    Raises `ValueError` where no word occurs that often.
    """

    def __init__(self, texts: Iterable[str | None], min_count: int):
        found = [words_of(text) for text in texts]
        counts = Counter(word for words in found for word in words)
        self.words = sorted(word for word, count in counts.items() if count >= min_count)
        self.counts = np.array([counts[word] for word in self.words], dtype=np.int64)
        self.has_text = np.array([bool(words) for words in found], dtype=bool)
        if not self.words:
            most = max(counts.values(), default=0)
            raise ValueError(
                f"No word occurs in the reports of at least {min_count} records: of {len(found)} records "
                f"{self.has_text.sum()} have a report, and the most frequent word occurs in {most}. Lower "
                "`report_min_count`, or give another `report_column`."
            )
        place = {word: index for index, word in enumerate(self.words)}
        self._places = [sorted(place[word] for word in words if word in place) for words in found]

    def __len__(self) -> int:
        return len(self.words)

    def targets(self, indices: Sequence[int]) -> np.ndarray:
        """int8 (records, words): 1 where the report has the word, else 0; -100 where the record has no report."""
        rows = np.zeros((len(indices), len(self)), dtype=np.int8)
        rows[~self.has_text[list(indices)]] = UNKNOWN_LABEL
        for row, index in zip(rows, indices, strict=True):
            row[self._places[index]] = 1
        return rows

    def log_odds(self) -> np.ndarray:
        """(words,): of each word's share of the texts, with half a text more on each side, so that it is finite."""
        with_word, all_texts = self.counts + 0.5, self.has_text.sum() + 1
        return np.log(with_word / (all_texts - with_word))

    def weights(self, kind: str) -> np.ndarray:
        """(words,): the factor of each word's loss, 1 on average; `kind` is one of `WORD_WEIGHTS`."""
        factors = np.ones(len(self)) if kind == "none" else self.counts**-0.5
        return factors / factors.mean()

    def in_words(self) -> str:
        """`353 words of 9,731 reports`"""
        return f"{len(self)} words of {self.has_text.sum():,} reports"

    def as_csv(self) -> str:
        """A line for each word: the word, and in how many reports it occurs."""
        lines = [f"{word},{count}" for word, count in zip(self.words, self.counts.tolist(), strict=True)]
        return "\n".join(["word,reports", *lines, ""])


def word_loss(
    logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor, num_with_text: torch.Tensor | float
) -> torch.Tensor:
    """Weighted binary cross-entropy, its mean over words, summed over crops and divided by `num_with_text` -> ().

    Logits and targets (crops, words), -100 in the rows of records without a report, which count 0; weights (words,).
    """
    return (multilabel_loss(logits, targets) * weights).mean(dim=1).sum() / num_with_text


__all__ = ["WORD_WEIGHTS", "ReportWords", "word_loss", "words_of"]
