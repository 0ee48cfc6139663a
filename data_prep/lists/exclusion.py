"""What must not get into a corpus even if it is listed: domains that are not asked, images known by their hash.

Both lists belong to the job: a shard that was made before a domain was excluded would still hold its images.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from data_prep.errors import InputError
from data_prep.lists.published_file import lines
from data_prep.lists.row_list import SHOWN, ListedImage
from data_prep.output.storage import is_remote, publish, unpublished
from samples.quote import quote

ONE_A_LINE = "give a UTF-8 text file, one entry a line"
HEX_DIGITS = {32: "md5", 64: "sha256"}


@dataclass(frozen=True)
class Exclusions:
    """The two lists as files, or None."""

    domains: Path | None = None
    hashes: Path | None = None

    def identity(self) -> dict[str, str]:
        """Hashes of what is excluded, for any order and layout of the files; part of the job's identity."""
        found: dict[str, str] = {}
        if self.domains:
            found["excluded_domains"] = _digest(sorted(read_domains(self.domains)))
        if self.hashes:
            found["excluded_hashes"] = _digest(sorted(read_hashes(self.hashes)))
        return found

    def kept_in(self, root: Path) -> Exclusions:
        """The same lists, copied into a folder or store once, for retries and for the record.

        Readers find a copy whole. Other parts write the same bytes.
        """
        if self.domains:
            _write_once(root / DOMAINS, sorted(read_domains(self.domains)))
        if self.hashes:
            _write_once(root / HASHES, sorted(read_hashes(self.hashes)))
        return kept_exclusions(root)


DOMAINS, HASHES = Path("excluded", "domains.txt"), Path("excluded", "hashes.txt")


def kept_exclusions(root: Path) -> Exclusions:
    """The exclusions that a job's folder was started with."""
    domains, hashes = root / DOMAINS, root / HASHES
    return Exclusions(domains if domains.exists() else None, hashes if hashes.exists() else None)


@functools.cache
def read_domains(path: Path) -> frozenset[str]:
    """One domain a line, `#` begins a comment; `.example.com` and `*.example.com` mean example.com.

    Raises: InputError for a line that is no domain.
    """
    return frozenset(_domain(path, number, text) for number, text in _lines(path))


@functools.cache
def read_hashes(path: Path) -> frozenset[str]:
    """One SHA-256 or MD5 a line, in hex, of an image's bytes as served; what follows it on the line is ignored.

    Raises: InputError for a line that does not begin with one.
    """
    return frozenset(_hash(path, number, text) for number, text in _lines(path))


def excluded_domain(host: str, domains: frozenset[str]) -> str | None:
    """The listed domain that a host equals or is below; None for none."""
    labels = host.lower().rstrip(".").split(".")
    parents = (".".join(labels[start:]) for start in range(len(labels)))
    return next((parent for parent in parents if parent in domains), None)


def excluded_hash(data: bytes, hashes: frozenset[str]) -> str | None:
    """The listed hash that these bytes have; None for none."""
    digests = (hashlib.sha256(data).hexdigest(), hashlib.md5(data, usedforsecurity=False).hexdigest())
    return next((digest for digest in digests if digest in hashes), None)


def without_excluded(images: Iterable[ListedImage], exclusions: Exclusions) -> Iterable[ListedImage]:
    """The rows, with those of excluded domains rejected, so that they are not requested."""
    return _mark(images, read_domains(exclusions.domains)) if exclusions.domains else images


def _mark(images: Iterable[ListedImage], domains: frozenset[str]) -> Iterator[ListedImage]:
    for image in images:
        host = urlsplit(image.url).hostname if image.rejected is None else None
        found = excluded_domain(host, domains) if host else None
        yield image if found is None else dataclasses.replace(image, rejected=f"excluded_domain: {found}")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """(number, text) of lines with something on them."""
    for number, line in enumerate(lines(path), start=1):
        try:
            text = line.decode("utf-8").partition("#")[0].strip()
        except UnicodeDecodeError as error:
            raise InputError(f"{path}, line {number} is not UTF-8: {quote(line, SHOWN)}", ONE_A_LINE) from error
        if text:
            yield number, text


def _domain(path: Path, number: int, text: str) -> str:
    name = text.removeprefix("*").removeprefix(".").rstrip(".").lower()
    try:
        name = name if name.isascii() else name.encode("idna").decode("ascii")
    except UnicodeError:
        name = ""
    if not re.fullmatch(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*|[0-9a-f:.]+", name):
        raise InputError(f"{path}, line {number}: {quote(text, SHOWN)!r} is not a domain", "one a line: example.com")
    return name


def _hash(path: Path, number: int, text: str) -> str:
    digest = text.split()[0].lower()
    if len(digest) not in HEX_DIGITS or not re.fullmatch("[0-9a-f]+", digest):
        raise InputError(
            f"{path}, line {number}: {quote(text, SHOWN)!r} does not begin with a SHA-256 or MD5",
            "one a line, 64 or 32 hex digits, of the image's bytes as the server sends them",
        )
    return digest


def _digest(lines: Iterable[str]) -> str:
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _write_once(path: Path, lines: Iterable[str]) -> None:
    if path.exists():
        return
    if not is_remote(path):
        path.parent.mkdir(exist_ok=True)
    written = unpublished(path)
    written.write_text("\n".join(lines) + "\n", encoding="utf-8")
    publish(written, path)
