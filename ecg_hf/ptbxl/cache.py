"""The Arrow files of `datasets`, also in a cache that may be read but not written."""

from __future__ import annotations

import atexit
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import datasets
from datasets.exceptions import DatasetGenerationError

_NOT_WRITABLE = (errno.EACCES, errno.EPERM, errno.EROFS)
_INFO = "dataset_info.json"


def open_builder(
    make: Callable[[str | None], datasets.DatasetBuilder], cache_dir: str | os.PathLike | None
) -> datasets.DatasetBuilder:
    """`make(cache_dir)`; of a cache that may not be written, the builder of the finished files in it.

    `datasets` takes locks beside the files that it only reads: for such a cache it gets a temporary folder with a link
    to them. Raises `PermissionError` where the cache does not hold them.
    """
    try:
        return make(None if cache_dir is None else str(cache_dir))
    except OSError as error:
        if error.errno not in _NOT_WRITABLE:
            raise
        refused = error
    root = Path(datasets.config.HF_DATASETS_CACHE if cache_dir is None else cache_dir).expanduser().absolute()
    links = tempfile.mkdtemp(prefix="ecg_hf-cache-")
    atexit.register(shutil.rmtree, links, ignore_errors=True)
    builder = make(links)
    place = Path(builder.cache_dir)
    stored = root / place.relative_to(links)
    if not (stored / _INFO).is_file():
        raise PermissionError(
            f"The cache {root} may not be written ({refused.strerror}) and does not hold these records: give another "
            "`cache_dir`."
        ) from refused
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(stored)
    return builder


def cause_of(error: DatasetGenerationError, cache_dir: str) -> BaseException:
    """What went wrong while `datasets` wrote its files: it reports each error as one without a reason."""
    cause = error.__cause__ or error
    if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
        return OSError(cause.errno, cause.strerror, cache_dir)
    return cause


__all__ = ["cause_of", "open_builder"]
