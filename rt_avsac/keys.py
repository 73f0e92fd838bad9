"""CURVE keys: `rt-avsac keygen`, and reading them. The files are ZPL, as CZMQ and pyzmq write them."""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Sequence
from pathlib import Path

import zmq

from rt_avsac.errors import DiskError, UserError

_KEY = re.compile(r"[0-9a-zA-Z.\-:+=^!/*?&<>()\[\]{}@%$#]{40}")  # 32 bytes in Z85
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,63}")
_LINE = re.compile(r'^\s*(public|secret)-key\s*=\s*"([^"]*)"\s*$', re.MULTILINE)


def read_secret(path: str | Path) -> tuple[bytes, bytes]:
    """(public, secret) of a .key_secret file, 40 characters each; UserError if it has none."""
    _require_curve()
    found = dict(_LINE.findall(_read(path)))
    public, secret = found.get("public", ""), found.get("secret", "")
    if not (_KEY.fullmatch(public) and _KEY.fullmatch(secret)):
        raise UserError(f"key file {path}: asked a secret key, got none in it; `rt-avsac keygen` writes *.key_secret")
    return public.encode(), secret.encode()


def read_public(key: str | Path) -> bytes:
    """The public key in a file, or `key` itself if it is one (40 characters); UserError if there is none."""
    if _KEY.fullmatch(str(key)) and not Path(key).exists():
        return str(key).encode()
    found = dict(_LINE.findall(_read(key))).get("public", "")
    if not _KEY.fullmatch(found):
        raise UserError(f"key file {key}: asked a public key, got none in it; `rt-avsac keygen` writes *.key")
    return found.encode()


def read_allowed(path: str | Path) -> frozenset[bytes]:
    """Public keys of the clients that are let in: the *.key files of a folder, one such file, or a list of keys.

    A list has one key of 40 characters a line; what follows a space after it, empty lines and lines that begin
    with "# " are remarks. UserError for a list without keys, which would let nobody in.
    """
    folder = Path(path)
    if folder.is_dir():
        allowed = frozenset(read_public(file) for file in folder.glob("*.key"))
    else:
        text = _read(path)
        words = [line.split()[0] for line in text.splitlines() if line.strip() and not line.lstrip().startswith("# ")]
        listed = [value for name, value in _LINE.findall(text) if name == "public"] or words
        for key in listed:
            if not _KEY.fullmatch(key):
                raise UserError(f"allowed clients {path}: {key[:60]!a} is not a public key (40 characters of Z85)")
        allowed = frozenset(key.encode() for key in listed)
    if not allowed:
        raise UserError(
            f"allowed clients {path}: no public keys there, so nobody could connect; copy *.key files there"
        )
    return allowed


def main(args: argparse.Namespace) -> int:
    """`rt-avsac keygen [DIR]`: keys of a publisher and a first client; with --client NAME, of one more client."""
    folder, client = Path(args.directory), args.client or "client"
    write_pairs(folder, (client,) if args.client else ("server", client))
    print(
        f"Publisher: rt-avsac live --server-key {folder}/server.key_secret --allowed-clients {folder}/allowed_clients"
    )
    print(
        f'Client:    MaskSubscriber(ADDRESS, client_key="{folder}/{client}.key_secret", '
        f'server_public_key="{folder}/server.key")'
    )
    print(
        f"Allowed is who has a .key file in {folder}/allowed_clients when the publisher starts; {client} has one now."
    )
    if not args.client:
        print(f"One more client: rt-avsac keygen {folder} --client NAME. The *.key_secret files are passwords.")
    return 0


def write_pairs(folder: Path, names: Sequence[str] = ("server", "client")) -> None:
    """A key pair per name in `folder`; all but "server" go into its allowed_clients too. Files have mode 0600.

    UserError if one of the files exists or a name is no file name, DiskError if one cannot be written.
    """
    _require_curve()
    texts: dict[Path, str] = {}
    for name in names:
        if not _NAME.fullmatch(name):
            raise UserError(f"client {name!a}: asked a name of letters, digits, '.', '_' or '-'")
        public, secret = (key.decode() for key in zmq.curve_keypair())
        text = f'curve\n    public-key = "{public}"\n'
        texts[folder / f"{name}.key_secret"] = text + f'    secret-key = "{secret}"\n'
        texts[folder / f"{name}.key"] = text
        if name != "server":
            texts[folder / "allowed_clients" / f"{name}.key"] = text
    for path in texts:
        if path.exists():
            raise UserError(f"key file {path}: exists and is not replaced; choose another folder or name")
    try:
        (folder / "allowed_clients").mkdir(mode=0o700, parents=True, exist_ok=True)
        for path, text in texts.items():
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "w", encoding="ascii") as file:
                file.write(text)
    except OSError as error:
        raise DiskError(f"key files in {folder}: cannot be written: {error.strerror}; choose another folder") from None


def _require_curve() -> None:
    if not zmq.has("curve"):
        raise UserError("keys: this machine's libzmq was built without CURVE; pip install pyzmq brings one that has it")


def _read(path: str | Path) -> str:
    try:
        return Path(path).read_text(encoding="ascii")
    except OSError as error:
        raise UserError(f"key file {path}: cannot be read: {error.strerror}; `rt-avsac keygen` makes keys") from None
    except UnicodeDecodeError:
        raise UserError(f"key file {path}: not a text file; `rt-avsac keygen` makes keys") from None
