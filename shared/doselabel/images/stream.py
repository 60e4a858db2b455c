"""Bytes of voxels from a file, decoded as they are read and never more than are wanted. Knows no headers."""

from __future__ import annotations

import re
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Literal

from isal import igzip_lib, isal_zlib  # zlib's checks, in half of its time

from doselabel.errors import GeometryError

Encoding = Literal["raw", "gzip", "zlib"]
GZIP_MAGIC = b"\x1f\x8b"
MOST_DEFLATED = 1032
"""One compressed byte becomes at most this many (RFC 1951: 258 bytes for two bits)."""
_CHUNK = 1 << 18
_PADDING = 1 << 20
_EXPORT_AGAIN = "Copy it again from where it came, or export it again."


class Voxels:
    """A file's bytes, decoded, from a place in the file to its end.

    Parameters
    ----------
    path : Path
    encoding : {"raw", "gzip", "zlib"}
    start : int
        Where the encoded bytes begin in the file.
    """

    def __init__(self, path: Path, encoding: Encoding, start: int = 0) -> None:
        self._path = path
        self._file: BinaryIO = path.open("rb")
        self._file.seek(start)
        self._start = start
        self._encoding = encoding
        self._inflate = _inflater(encoding) if encoding != "raw" else None
        self._fed = b""

    def __enter__(self) -> Voxels:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        self._file.close()

    def peek(self) -> bytes:
        """The first two bytes as they are stored."""
        first = self._file.read(2)
        self._file.seek(self._start)
        return first

    @property
    def at_most(self) -> int:
        """No more bytes than this can come out, judged by the file's size."""
        size = self._path.stat().st_size - self._start
        return size if self._encoding == "raw" else size * MOST_DEFLATED

    def read(self, count: int) -> bytes:
        """Up to ``count`` bytes; fewer only at the end."""
        buffer = bytearray(count)
        return bytes(buffer[: self.fill(memoryview(buffer))])

    def fill(self, target: memoryview) -> int:
        """Fill ``target`` (bytes); return how many bytes there were."""
        filled = 0
        while filled < len(target):
            if self._inflate is None:
                got = self._file.readinto(target[filled:])  # type: ignore[attr-defined]
            else:
                piece = self._inflated(len(target) - filled)
                got = len(piece)
                target[filled : filled + got] = piece
            if not got:
                break
            filled += got
        return filled

    def finish(self, declared: int) -> None:
        """Raise GeometryError unless the bytes end here, and checksum and length are right."""
        padding = self.read(_PADDING)
        if padding.strip(b"\0\n\r ") or len(padding) == _PADDING:
            raise GeometryError(
                f"{self._path}: holds more voxels than its header declares ({declared} bytes): header and voxels do "
                "not belong together.",
                _EXPORT_AGAIN,
            )

    def _inflated(self, most: int) -> bytes:
        while True:
            assert self._inflate is not None
            if self._inflate.eof and not self._next_member():
                return b""
            fed = self._fed or self._file.read(_CHUNK)
            try:
                piece = self._inflate.decompress(fed, most)
            except igzip_lib.IsalError as error:  # type: ignore[misc]  # its stub names no base
                raise GeometryError(
                    f"{self._path}: is damaged: its compressed voxels fail their checks ({_reason(error)}).",
                    _EXPORT_AGAIN,
                ) from error
            self._fed = self._inflate.unconsumed_tail
            if piece:
                return piece
            if not fed and not self._inflate.eof:
                raise GeometryError(
                    f"{self._path}: is cut off: its compressed voxels end before their end mark.", _EXPORT_AGAIN
                )

    def _next_member(self) -> bool:
        """Whether another gzip member follows; zeros after the last one are padding."""
        assert self._inflate is not None
        rest = self._inflate.unused_data or self._file.read(_CHUNK)
        while rest and not rest.strip(b"\0"):
            rest = self._file.read(_CHUNK)
        if not rest:
            return False
        if self._encoding != "gzip" or not rest.startswith(GZIP_MAGIC):
            raise GeometryError(
                f"{self._path}: is damaged: after its compressed voxels follow other bytes.", _EXPORT_AGAIN
            )
        self._inflate = _inflater("gzip")
        self._fed = rest
        return True


def cut_off(path: Path, declared: int, found: int, *, at_most: bool = False) -> GeometryError:
    """The error for a file that ends too early."""
    there = f"at most {found} can be there" if at_most else f"{found} are there"
    return GeometryError(
        f"{path}: is cut off: its header declares {declared} bytes of voxels, and {there}.", _EXPORT_AGAIN
    )


def packed_as(first: bytes) -> Encoding:
    """How voxels that begin with these bytes are encoded, as far as two bytes tell."""
    if first[:2] == GZIP_MAGIC:
        return "gzip"
    zlib = len(first) >= 2 and first[0] & 15 == 8 and int.from_bytes(first[:2], "big") % 31 == 0  # RFC 1950
    return "zlib" if zlib else "raw"


def _inflater(encoding: Encoding) -> Any:
    return isal_zlib.decompressobj(wbits=31 if encoding == "gzip" else 15)


def _reason(error: Exception) -> str:
    return re.sub(r"^Error -?\d+:? *", "", str(error)).lower()
