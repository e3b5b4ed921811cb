"""Downloads that continue where they broke off, and land only once they are proven."""

import hashlib
import sys
import time
from pathlib import Path

import requests
from tqdm import tqdm

from stages.lib.artifacts import lock

CHUNK_BYTES = 1 << 16
PATIENCE_S = 60.0
MIN_BYTES_PER_S = 1000  # below this over that time the server counts as broken


def fetch(url: str, path: Path, *, md5: str | None, attempts: int = 4, pause_s: float = 1.0) -> None:
    """Download `url` to `path`, through `path`.part, unless it is already there.

    Args:
        md5: Expected digest, checked before the file gets its name; None if the caller has another proof.
        attempts: Requests made in all, at least 1, while the connection breaks or the server answers 5xx.
        pause_s: Seconds before the second request, doubled before each further one.

    Raises:
        ValueError: If what arrived does not have the digest; it is deleted.
        OSError: If the server cannot be reached or refuses; what has arrived stays for the next call.
    """
    with lock(path.with_name(f".{path.name}.lock")) as held:  # another process that downloads it is waited for
        try:
            if not path.exists() or (md5 is not None and _md5_of(path) != md5):
                _fetch(url, path, md5=md5, attempts=attempts, pause_s=pause_s)
        finally:
            held.unlink()


def _fetch(url: str, path: Path, *, md5: str | None, attempts: int, pause_s: float) -> None:
    part = path.with_name(path.name + ".part")
    print(f"downloading {url}", file=sys.stderr, flush=True)
    for attempt in range(1, attempts + 1):
        try:
            _continue(url, part)
            break
        except requests.RequestException as error:
            refused = error.response is not None and error.response.status_code < 500
            if refused or attempt == attempts:
                raise OSError(f"{url} could not be downloaded in {attempt} attempts: {error}") from error
            time.sleep(pause_s * 2 ** (attempt - 1))
    if md5 is not None and (got := _md5_of(part)) != md5:
        part.unlink()
        raise ValueError(f"{url} must have the MD5 {md5}, got {got}; it was deleted, run again")
    part.replace(path)


def _continue(url: str, part: Path) -> None:
    """Append to `part` what it lacks of `url`."""
    start = part.stat().st_size if part.exists() else 0
    # A compressed answer would have other lengths and offsets than the file.
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with requests.get(url, headers=headers, stream=True, timeout=30) as response:
        if start and response.status_code == requests.codes.requested_range_not_satisfiable:
            part.unlink()  # longer than the file it should be a beginning of
            raise requests.ConnectionError("the part on disk does not fit the file; starting over")
        response.raise_for_status()
        if response.status_code != requests.codes.partial_content:
            start = 0  # the server sends the whole file, whatever we asked for
        length = response.headers.get("Content-Length")
        bar = tqdm(
            desc=part.stem,
            total=start + int(length) if length else None,
            initial=start,
            unit="B",
            unit_scale=True,
            disable=None,
        )
        # A body shorter than its Content-Length makes iter_content raise.
        with bar, part.open("ab" if start else "wb") as file:
            began, got = time.monotonic(), 0
            for chunk in response.iter_content(chunk_size=CHUNK_BYTES):
                file.write(chunk)
                bar.update(len(chunk))
                got += len(chunk)
                if (seconds := time.monotonic() - began) > PATIENCE_S:
                    if got < MIN_BYTES_PER_S * seconds:
                        raise requests.ConnectionError(f"fewer than {MIN_BYTES_PER_S} bytes/s came for {seconds:.0f} s")
                    began, got = time.monotonic(), 0


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
