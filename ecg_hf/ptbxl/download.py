"""PTB-XL from PhysioNet: downloaded file by file with checksums, or unpacked from PhysioNet's zip."""

from __future__ import annotations

import email.utils
import hashlib
import logging
import os
import re
import shutil
import threading
import time
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

import httpx2
from tqdm.auto import tqdm

from ..files import whole_folder
from .table import TABLE_NAME, check_sampling_rate, read_table

logger = logging.getLogger(__name__)

PHYSIONET_URL = "https://physionet.org/files/ptb-xl/1.0.3/"
CHECKSUMS = "SHA256SUMS.txt"

# Besides the records; the licence must be distributed with them.
TABLES = ("LICENSE.txt", TABLE_NAME, "scp_statements.csv")

# PhysioNet asks for few connections; PTB-XL has 43,598 small files, so that a single one would mostly be waiting.
CONNECTIONS = 4
ATTEMPTS = 5
SECONDS_TO_WAIT = 30
SILENT_ATTEMPTS = 2
"""After so many attempts in a row in which the server sent nothing for `SECONDS_TO_WAIT`, it is left."""
BUSY = (429, 500, 502, 503, 504)
"""Answers of a server that may give the file a little later."""
LONGEST_WAIT = 600
"""Seconds; a server that asks for more (`Retry-After`) is left."""


def download_ptbxl(
    folder: str | os.PathLike,
    sampling_rate: int,
    *,
    base_url: str = PHYSIONET_URL,
    connections: int = CONNECTIONS,
    seconds_between_attempts: float = 2.0,
) -> Path:
    """Download PTB-XL's table and the records of one sampling rate to `folder` -> that folder, for `load_ptbxl`.

    Each file is verified against the SHA-256 that PhysioNet publishes. Files that are already complete are skipped and
    partial ones (`....part`) are resumed, so that repeating the call resumes an interrupted download. The size is
    0.5 GB at 100 Hz and 2.6 GB at 500 Hz.

    Args:
        folder: created if it does not exist.
        sampling_rate: 100 or 500 (Hz).
        base_url: of the folder that holds `SHA256SUMS.txt`, for a mirror.
        connections: number of concurrent downloads.
        seconds_between_attempts: the wait before the second attempt; it doubles before each further one.

    Raises:
        ValueError: another sampling rate, or a list of checksums that is not that of PTB-XL.
        ConnectionError: the server cannot be reached, refuses a file, stays busy or sends nothing for a minute;
            downloaded data are kept.
        OSError: the SHA-256 of a file was wrong twice, or the list of checksums lacks records of the table.
    """
    check_sampling_rate(sampling_rate)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with httpx2.Client(base_url=base_url, timeout=SECONDS_TO_WAIT, follow_redirects=True) as client:
        fetcher = _Fetcher(client, folder, seconds_between_attempts)
        checksums = _read_checksums(fetcher.text(CHECKSUMS), sampling_rate, base_url)
        fetcher.file(TABLE_NAME, checksums[TABLE_NAME])
        records = _files_of_table(folder, sampling_rate)
        if unlisted := [name for name in records if name not in checksums]:
            raise OSError(
                f"{base_url}{CHECKSUMS} lacks {len(unlisted)} of the {len(records)} files that {TABLE_NAME} names, "
                f"first {unlisted[0]}: the list was cut in transit or on the server. Repeat the call, or use "
                "another mirror."
            )
        _fetch_all(fetcher, checksums, connections)
    if missing := [name for name in records if not (folder / name).is_file()]:
        raise OSError(f"{len(missing)} files of {TABLE_NAME} are not in {folder}, the first is {missing[0]}.")
    return folder


def _files_of_table(folder: Path, sampling_rate: int) -> list[str]:
    """The files of the records that the downloaded table names, by their paths."""
    names = read_table(folder, sampling_rate)["filename"].to_pylist()
    return [str(PurePosixPath(f"{name}{suffix}")) for name in names for suffix in (".hea", ".dat")]


def _read_checksums(text: str, sampling_rate: int, base_url: str) -> dict[str, str]:
    """The SHA-256 of each required file, by its path."""
    checksums = {}
    for line in text.splitlines():
        digest, _, name = line.partition(" ")
        name = name.strip().removeprefix("*").removeprefix("./")
        if name in TABLES or name.startswith(f"records{sampling_rate}/"):
            if ".." in PurePosixPath(name).parts or len(digest) != 64:
                raise ValueError(f"{base_url}{CHECKSUMS} has the line {line!r}, which is not a SHA-256 and a path.")
            checksums[name] = digest
    if TABLE_NAME not in checksums or len(checksums) <= len(TABLES):
        raise ValueError(
            f"{base_url}{CHECKSUMS} does not name {TABLE_NAME} and records at {sampling_rate} Hz: is it PTB-XL?"
        )
    return checksums


def _fetch_all(fetcher: _Fetcher, checksums: Mapping[str, str], connections: int) -> None:
    progress = tqdm(total=len(checksums), desc="PTB-XL", unit="file")
    with progress, ThreadPoolExecutor(connections) as pool:
        futures = [pool.submit(fetcher.file, name, digest) for name, digest in checksums.items()]
        try:
            for future in futures:
                future.result()
                progress.update()
        except BaseException:  # also on an interrupt: no download may continue in the background
            fetcher.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


class _BusyServer(Exception):
    """An answer of `BUSY`; `seconds` is how long the server asks to wait, 0 if it does not say."""

    def __init__(self, response: httpx2.Response):
        super().__init__(f"the server is busy: {response.status_code}")
        self.seconds = _seconds_to_wait(response.headers.get("Retry-After", ""))


def _seconds_to_wait(retry_after: str) -> float:
    """Of the header `Retry-After`, which gives seconds or a date; 0 for anything else."""
    if re.fullmatch(r"\s*[0-9]{1,9}\s*", retry_after):
        return float(retry_after)
    try:
        date = email.utils.parsedate_to_datetime(retry_after)
    except ValueError:
        return 0.0
    return max(0.0, date.timestamp() - time.time())


def _size(path: Path) -> int:
    return path.stat().st_size if path.is_file() else 0


class _Fetcher:
    """Downloads files to a folder; once `stopped` is set it starts no further attempt."""

    def __init__(self, client: httpx2.Client, folder: Path, seconds_between_attempts: float):
        self.client = client
        self.folder = folder
        self.seconds_between_attempts = seconds_between_attempts
        self.stopped = threading.Event()

    def text(self, name: str) -> str:
        path = self.folder / name
        path.unlink(missing_ok=True)
        self._attempt_until_whole(name, path)
        return path.read_text(encoding="utf-8")

    def file(self, name: str, digest: str) -> None:
        """Download a file unless it is already complete."""
        path = self.folder / name
        if path.is_file() and _sha256(path) == digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        # The second time from the start: the resumed part may be that of an older file.
        for _ in range(2):
            self._attempt_until_whole(name, part)
            if _sha256(part) == digest:
                os.replace(part, path)
                return
            part.unlink()
        raise OSError(
            f"{self.client.base_url}{name} had another SHA-256 than {CHECKSUMS} lists ({digest}) twice: it is "
            "damaged on the server or in transit. It was deleted; try again later, or use another mirror."
        )

    def _attempt_until_whole(self, name: str, path: Path) -> None:
        silent = 0
        for attempt in range(1, ATTEMPTS + 1):
            if self.stopped.is_set():
                raise ConnectionError("The download was stopped.")
            before = _size(path)
            try:
                self._append(name, path)
                return
            except (httpx2.TransportError, _BusyServer) as error:
                is_silent = isinstance(error, httpx2.TimeoutException) and _size(path) == before
                silent = silent + 1 if is_silent else 0
                self._check_patience(name, error, attempt, silent)
                logger.warning(
                    "The download of %s failed (%s); starting attempt %d of %d.", name, error, attempt + 1, ATTEMPTS
                )
                # Ends early when another file has failed.
                self.stopped.wait(self._pause(error, attempt))

    def _pause(self, error: Exception, attempt: int) -> float:
        """Seconds until the next attempt: what a busy server asks for, but at least twice as long as before."""
        return max(getattr(error, "seconds", 0.0), self.seconds_between_attempts * 2 ** (attempt - 1))

    def _check_patience(self, name: str, error: Exception, attempt: int, silent: int) -> None:
        """`ConnectionError` where no further attempt is made."""
        kept = "Downloaded data are kept: repeat the call to resume."
        url = f"{self.client.base_url}{name}"
        if silent == SILENT_ATTEMPTS:
            seconds = SILENT_ATTEMPTS * SECONDS_TO_WAIT
            raise ConnectionError(f"{url} failed: the server sent nothing for {seconds} s. {kept}") from error
        if getattr(error, "seconds", 0.0) > LONGEST_WAIT:
            raise ConnectionError(f"{url} failed: {error}, and asks to come back in {error.seconds:.0f} s. {kept}")
        if attempt == ATTEMPTS:
            raise ConnectionError(f"{url} failed after {ATTEMPTS} attempts ({error}). {kept}") from error

    def _append(self, name: str, path: Path) -> None:
        """Download the missing rest of `path`."""
        size = _size(path)
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
        with self.client.stream("GET", name, headers=headers) as response:
            if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
                return  # the file is complete; the checksum decides whether it is correct
            if response.status_code in BUSY:
                raise _BusyServer(response)
            if response.is_error:
                raise ConnectionError(f"The server refused {response.url}: {response.status_code}.")
            # A server without support for ranges sends the file from its start.
            mode = "ab" if response.status_code == httpx2.codes.PARTIAL_CONTENT else "wb"
            with open(path, mode) as file:
                for chunk in response.iter_raw():  # unbuffered, so that all data received before a failure are kept
                    file.write(chunk)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack_ptbxl(zip_path: str | os.PathLike, sampling_rate: int, cache_dir: str | os.PathLike) -> Path:
    """Unpack the table and the records of one rate from PhysioNet's zip -> the folder, in `cache_dir`.

    The folder's name is derived from the zip's content, and later calls reuse the folder. It is created atomically.

    Raises:
        ValueError: not a zip, a damaged one, or one without PTB-XL's table.
    """
    zip_path = Path(zip_path).expanduser()
    try:
        with zipfile.ZipFile(zip_path) as archive:
            members = _members(archive, sampling_rate)
            if not any(name == TABLE_NAME for name in members):
                raise ValueError(f"{zip_path} does not contain {TABLE_NAME}: is it PhysioNet's zip of PTB-XL?")
            content = "\n".join(f"{name} {info.CRC} {info.file_size}" for name, info in sorted(members.items()))
            folder = Path(cache_dir).expanduser() / f"ptbxl-zip-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
            if not folder.is_dir():
                _unpack(archive, members, folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{zip_path} is not a zip file, or is damaged ({error}): download it again.") from error
    return folder


def _members(archive: zipfile.ZipFile, sampling_rate: int) -> dict[str, zipfile.ZipInfo]:
    """The required members of the zip, by their path relative to PTB-XL's folder in the zip."""
    tables = [info.filename for info in archive.infolist() if info.filename.split("/")[-1] == TABLE_NAME]
    root = min(tables, key=len, default="").removesuffix(TABLE_NAME)
    wanted = {}
    for info in archive.infolist():
        name = info.filename.removeprefix(root)
        if not info.is_dir() and (name in TABLES or name.startswith(f"records{sampling_rate}/")):
            if ".." in PurePosixPath(name).parts:
                raise ValueError(f"{archive.filename} has the member {info.filename}, which is outside of its folder.")
            wanted[name] = info
    return wanted


def _unpack(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: Path) -> None:
    try:
        _unpack_whole(archive, members, folder)
    except OSError:
        # Another process that unpacked the same content meanwhile was faster.
        if not folder.is_dir():
            raise


def _unpack_whole(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: Path) -> None:
    with whole_folder(folder) as unfinished:
        for name, info in tqdm(members.items(), desc=f"Unpacking {Path(archive.filename).name}", unit="file"):
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)


__all__ = ["PHYSIONET_URL", "download_ptbxl", "unpack_ptbxl"]
