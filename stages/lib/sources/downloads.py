"""Downloads that continue where they broke off, and land only once they are proven."""

import hashlib
import sys
import time
from pathlib import Path

import requests
from tqdm import tqdm


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
    if path.exists() and (md5 is None or _md5_of(path) == md5):
        return
    path.parent.mkdir(parents=True, exist_ok=True)
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
            for chunk in response.iter_content(chunk_size=1 << 16):
                file.write(chunk)
                bar.update(len(chunk))


def _md5_of(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
