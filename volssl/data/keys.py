"""Keyed hashes: how a name, an id or a path becomes a key that says nothing to whoever lacks the secret."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from volssl.errors import UserError
from volssl.files import write_private

KEY_FILE = "private.key"  # in the store
SOURCE_KEY_FILE = "volssl.key"  # in the root of a source folder; the simulator writes one
VOLUME_SUFFIXES = (".nii.gz", ".nii", ".hdr.gz", ".hdr", ".nrrd", ".nhdr", ".mha", ".mhd", ".dcm", ".dicom", ".ima")


def keyed_hash(key: bytes, kind: str, text: str) -> str:
    """Hash `text` with the secret `key` into 24 hexadecimal digits; equal texts of two kinds differ."""
    return hmac.new(key, f"{kind}\0{text}".encode("utf-8", "surrogateescape"), hashlib.sha256).hexdigest()[:24]


def study_alias(key: bytes, name: str) -> str:
    """Hash a name by which a label table may call a study; the suffix of a volume file does not count."""
    return keyed_hash(key, "alias", plain_name(name))


def plain_name(name: str) -> str:
    """Strip blanks and the suffix of a volume file: `S01.nii.gz` and `S01` are one name."""
    name = name.strip()
    for suffix in VOLUME_SUFFIXES:
        if name.lower().endswith(suffix) and len(name) > len(suffix):
            return name[: -len(suffix)]
    return name


def read_key(path: Path) -> bytes:
    """Read a key file: at least 16 bytes in hexadecimal digits.

    Raises:
        UserError: the file is missing or holds something else.
    """
    try:
        key = bytes.fromhex(path.read_text(encoding="ascii").strip())
    except OSError as error:
        raise UserError(
            f"the key file {path} cannot be read ({error.strerror}): give --key a file that exists"
        ) from error
    except ValueError as error:
        raise UserError(f"{path} is no key file: it must hold hexadecimal digits and nothing else") from error
    if len(key) < 16:
        raise UserError(
            f"{path}: a key of {len(key)} bytes is too short: give at least 16 bytes, as 32 hexadecimal digits"
        )
    return key


def settle_key(folder: Path, roots: Sequence[Path], given: Path | None, *, check: str | None = None) -> bytes:
    """Find the secret of a folder and keep it there: the one given, the folder's own, a source's, or a new one.

    Args:
        check: what `key_check` gave for the key with which the folder was filled; a new key would call the same patient
            by another name. None where it is empty.

    Raises:
        UserError: the key is another than the folder was filled with, or is missing where there must be one.
    """
    own = folder / KEY_FILE
    wanted = read_key(given) if given else None
    brought = [root / SOURCE_KEY_FILE for root in roots if (root / SOURCE_KEY_FILE).is_file()]
    if own.exists():
        key = read_key(own)
        if wanted is not None and wanted != key:
            raise UserError(f"{folder} was made with another key than {given}: leave --key out, or take a new folder")
    elif wanted is None and not brought and check is not None:
        raise UserError(f"{own} is missing, by which {folder} knows its patients: put it back, or give it with --key")
    else:
        key = wanted or (read_key(brought[0]) if brought else secrets.token_bytes(32))
    if check is not None and key_check(key) != check:
        raise UserError(f"{folder} was made with another key than the one found: give the right one with --key")
    if not own.exists():
        write_private(own, key.hex() + "\n")
    return key


def key_check(key: bytes) -> str:
    """By which a key is known again; it does not lead back to the key."""
    return keyed_hash(key, "check", "")
