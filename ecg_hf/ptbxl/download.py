"""PTB-XL from PhysioNet: over HTTP, file by file and checked, or from the zip that PhysioNet offers."""

from __future__ import annotations

import hashlib
import logging
import os
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
from .table import TABLE_NAME, check_sampling_rate

logger = logging.getLogger(__name__)

PHYSIONET_URL = "https://physionet.org/files/ptb-xl/1.0.3/"
CHECKSUMS = "SHA256SUMS.txt"

# Beside the records; the licence asks to be passed on with them.
TABLES = ("LICENSE.txt", TABLE_NAME, "scp_statements.csv")

# PhysioNet asks for few connections; PTB-XL is 43,598 small files, so that one alone would wait most of its time.
CONNECTIONS = 4
ATTEMPTS = 5
SECONDS_TO_WAIT = 30


def download_ptbxl(
    folder: str | os.PathLike,
    sampling_rate: int,
    *,
    base_url: str = PHYSIONET_URL,
    connections: int = CONNECTIONS,
    seconds_between_attempts: float = 2.0,
) -> Path:
    """Fetch PTB-XL's table and the records of one sampling rate into `folder` -> that folder, ready for `load_ptbxl`.

    Each file is compared with the SHA-256 that PhysioNet publishes. A file that is there and right is not fetched
    again, and a part of one (`....part`) is continued, so that a broken download goes on by the same call. 100 Hz are
    0.5 GB, 500 Hz 2.6 GB.

    Args:
        folder: made if it does not exist.
        sampling_rate: 100 or 500 (Hz).
        base_url: of the folder that holds `SHA256SUMS.txt`, for a mirror.
        connections: how many files are fetched at once.
        seconds_between_attempts: the wait before a second attempt, twice as long before each further one.

    Raises:
        ValueError: another sampling rate, or a list of checksums that is not PTB-XL's.
        ConnectionError: the server cannot be reached or refuses a file; what was fetched is kept.
        OSError: a file came with another SHA-256 twice.
    """
    check_sampling_rate(sampling_rate)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with httpx2.Client(base_url=base_url, timeout=SECONDS_TO_WAIT, follow_redirects=True) as client:
        fetcher = _Fetcher(client, folder, seconds_between_attempts)
        checksums = _read_checksums(fetcher.text(CHECKSUMS), sampling_rate, base_url)
        _fetch_all(fetcher, checksums, connections)
    return folder


def _read_checksums(text: str, sampling_rate: int, base_url: str) -> dict[str, str]:
    """The SHA-256 of each file that is wanted, by its path."""
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
        except BaseException:  # an interrupt too: the other files must not go on behind the user's back
            fetcher.stopped.set()
            pool.shutdown(cancel_futures=True)
            raise


class _Fetcher:
    """Fetches files into a folder; after `stopped` is set it begins no further attempt."""

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
        """Fetch a file unless it is there and right."""
        path = self.folder / name
        if path.is_file() and _sha256(path) == digest:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f"{path.name}.part")
        # The second time from the start: the part that was continued may have been of an older file.
        for _ in range(2):
            self._attempt_until_whole(name, part)
            if _sha256(part) == digest:
                os.replace(part, path)
                return
            part.unlink()
        raise OSError(
            f"{self.client.base_url}{name} came twice with another SHA-256 than {CHECKSUMS} says ({digest}): it is "
            "damaged on the server or on the way. Nothing of it was kept; try again later, or another mirror."
        )

    def _attempt_until_whole(self, name: str, path: Path) -> None:
        for attempt in range(1, ATTEMPTS + 1):
            if self.stopped.is_set():
                raise ConnectionError("The download was stopped.")
            try:
                self._append(name, path)
                return
            except httpx2.TransportError as error:
                if attempt == ATTEMPTS:
                    raise ConnectionError(
                        f"{self.client.base_url}{name} broke off {ATTEMPTS} times ({error}). What was fetched is "
                        "kept: call it again to go on."
                    ) from error
                logger.warning("%s broke off (%s); attempt %d of %d follows.", name, error, attempt + 1, ATTEMPTS)
                time.sleep(self.seconds_between_attempts * 2 ** (attempt - 1))

    def _append(self, name: str, path: Path) -> None:
        """Fetch what `path` still lacks."""
        size = path.stat().st_size if path.is_file() else 0
        headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={size}-"} if size else {})
        with self.client.stream("GET", name, headers=headers) as response:
            if response.status_code == httpx2.codes.RANGE_NOT_SATISFIABLE:
                return  # there is no more; the checksum judges
            if response.is_error:
                raise ConnectionError(f"The server refused {response.url}: {response.status_code}.")
            # A server that does not know ranges sends the file from its start.
            mode = "ab" if response.status_code == httpx2.codes.PARTIAL_CONTENT else "wb"
            with open(path, mode) as file:
                for chunk in response.iter_raw():  # as it comes: of a broken answer everything is kept
                    file.write(chunk)


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def unpack_ptbxl(zip_path: str | os.PathLike, sampling_rate: int, cache_dir: str | os.PathLike) -> Path:
    """Unpack the table and the records of one rate from PhysioNet's zip -> the folder, in `cache_dir`.

    The folder is named by the zip's content, and is used again by the next call. It appears whole or not at all.

    Raises:
        ValueError: not a zip, a damaged one, or one without PTB-XL's table.
    """
    zip_path = Path(zip_path).expanduser()
    try:
        with zipfile.ZipFile(zip_path) as archive:
            members = _members(archive, sampling_rate)
            if not any(name == TABLE_NAME for name in members):
                raise ValueError(f"{zip_path} does not hold {TABLE_NAME}: is it PhysioNet's zip of PTB-XL?")
            content = "\n".join(f"{name} {info.CRC} {info.file_size}" for name, info in sorted(members.items()))
            folder = Path(cache_dir).expanduser() / f"ptbxl-zip-{hashlib.sha256(content.encode()).hexdigest()[:32]}"
            if not folder.is_dir():
                _unpack(archive, members, folder)
    except (zipfile.BadZipFile, EOFError) as error:
        raise ValueError(f"{zip_path} is not a zip file, or a damaged one ({error}): fetch it again.") from error
    return folder


def _members(archive: zipfile.ZipFile, sampling_rate: int) -> dict[str, zipfile.ZipInfo]:
    """What is wanted of the zip, by its path in PTB-XL's folder, which is itself a folder of the zip."""
    tables = [info.filename for info in archive.infolist() if info.filename.split("/")[-1] == TABLE_NAME]
    root = min(tables, key=len, default="").removesuffix(TABLE_NAME)
    wanted = {}
    for info in archive.infolist():
        name = info.filename.removeprefix(root)
        if not info.is_dir() and (name in TABLES or name.startswith(f"records{sampling_rate}/")):
            if ".." in PurePosixPath(name).parts:
                raise ValueError(f"{archive.filename} has the member {info.filename}, which lies outside its folder.")
            wanted[name] = info
    return wanted


def _unpack(archive: zipfile.ZipFile, members: Mapping[str, zipfile.ZipInfo], folder: Path) -> None:
    with whole_folder(folder) as unfinished:
        for name, info in tqdm(members.items(), desc=f"Unpacking {Path(archive.filename).name}", unit="file"):
            path = unfinished / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with archive.open(info) as source, open(path, "wb") as target:
                shutil.copyfileobj(source, target)


__all__ = ["PHYSIONET_URL", "download_ptbxl", "unpack_ptbxl"]
