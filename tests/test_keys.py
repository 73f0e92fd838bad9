"""Key files: who can read them, what is refused, and lists of allowed clients."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest
import zmq.auth

from rt_avsac.cli import main
from rt_avsac.errors import UserError
from rt_avsac.keys import read_allowed, read_public, read_secret, write_pairs


def test_keygen_writes_pairs_that_only_the_owner_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "keys"
    assert main(["keygen", str(folder)]) == 0
    names = {"server.key", "server.key_secret", "client.key", "client.key_secret", "allowed_clients/client.key"}
    files = {path for path in folder.rglob("*") if path.is_file()}
    assert {str(path.relative_to(folder)) for path in files} == names
    assert {stat.S_IMODE(path.stat().st_mode) for path in files} == {0o600}
    said = capsys.readouterr().out
    assert f"--allowed-clients {folder}/allowed_clients" in said
    assert "--client NAME" in said
    for path in files:  # also readable by others' tools
        public, secret = zmq.auth.load_certificate(path)
        assert (secret is not None) == path.name.endswith("_secret")
        assert public == read_public(path)
    assert read_secret(folder / "server.key_secret")[0] != read_secret(folder / "client.key_secret")[0]


def test_keygen_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_pairs(tmp_path)
    before = {path: path.read_text() for path in tmp_path.rglob("*.key*")}
    assert main(["keygen", str(tmp_path)]) == 2
    assert "exists and is not replaced" in capsys.readouterr().err
    assert main(["keygen", str(tmp_path), "--client", "client"]) == 2
    assert before == {path: path.read_text() for path in tmp_path.rglob("*.key*")}
    (tmp_path / "file").touch()
    assert main(["keygen", str(tmp_path / "file" / "keys")]) == 5


def test_one_more_client_is_allowed(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    assert main(["keygen", str(tmp_path), "--client", "robot-2"]) == 0
    both = {read_public(tmp_path / "client.key"), read_public(tmp_path / "robot-2.key")}
    assert read_allowed(tmp_path / "allowed_clients") == both
    assert main(["keygen", str(tmp_path), "--client", "../robot"]) == 2


def test_allowed_clients_are_a_folder_a_key_file_or_a_list(tmp_path: Path) -> None:
    write_pairs(tmp_path)
    client, server = read_public(tmp_path / "client.key"), read_public(tmp_path / "server.key")
    assert read_allowed(tmp_path / "client.key") == {client}
    listed = tmp_path / "list.txt"
    listed.write_text(f"# robots\n\n{client.decode()} the red one\n{server.decode()}\n")
    assert read_allowed(listed) == {client, server}
    assert read_public(client.decode()) == client


@pytest.mark.parametrize("text", ["", "# nobody\n", "too short\n", "public-key = nothing\n", "\x00\xff"])
def test_lists_that_let_nobody_in_are_refused(tmp_path: Path, text: str) -> None:
    listed = tmp_path / "list.txt"
    listed.write_text(text, encoding="latin-1")
    with pytest.raises(UserError):
        read_allowed(listed)
    with pytest.raises(UserError):
        read_public(listed)
    with pytest.raises(UserError):
        read_secret(listed)
    with pytest.raises(UserError):
        read_allowed(tmp_path / "missing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="nobody could connect"):
        read_allowed(tmp_path / "empty")
