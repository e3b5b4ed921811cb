"""Paths, and files that appear whole or not at all."""

import json
import multiprocessing
import os
import platform
from pathlib import Path

import pytest

from stages.lib.artifacts import cache_folder, read_json, replacing, user_path, write_json


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("old")
    with pytest.raises(OSError, match="full"), replacing(path) as temporary:
        temporary.write_text("half")
        raise OSError("full")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_what_a_killed_process_left_is_deleted_and_what_a_living_one_writes_is_not(tmp_path: Path) -> None:
    dead = multiprocessing.get_context("spawn").Process()
    dead.start()
    dead.join()
    strays = [tmp_path / f".file.{platform.node()}-{pid}.tmp" for pid in (dead.pid, os.getppid())]
    elsewhere = tmp_path / f".file.other-host-{dead.pid}.tmp"
    for stray in (*strays, elsewhere):
        stray.touch()
    with replacing(tmp_path / "file") as temporary:
        temporary.touch()
    assert [path.exists() for path in (*strays, elsewhere)] == [False, True, True]


def test_json_comes_back_and_the_same_values_give_the_same_bytes(tmp_path: Path) -> None:
    write_json(tmp_path / "one.json", {"b": 1, "a": [1.5]})
    write_json(tmp_path / "two.json", {"a": [1.5], "b": 1})
    assert read_json(tmp_path / "one.json") == {"a": [1.5], "b": 1}
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "two.json").read_bytes()


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"null", b"\xff", b"[" * 100_000, json.dumps("x").encode()])
def test_a_file_that_holds_something_else_is_named_with_its_remedy(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "file.json"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"^.*file\.json must hold .*; run dvc repro to write it again$"):
        read_json(path)


def test_a_relative_path_is_relative_to_the_repository_also_where_dvc_runs_an_experiment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for inside in ("", ".dvc/tmp/exps/standalone/tmpabc"):
        (tmp_path / inside).mkdir(parents=True, exist_ok=True)
        monkeypatch.chdir(tmp_path / inside)
        assert user_path("../photos").resolve() == (tmp_path / ".." / "photos").resolve()
        assert user_path("/photos") == Path("/photos")


def test_without_a_home_the_way_out_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", no_home)
    with pytest.raises(ValueError, match="set HOME or XDG_CACHE_HOME"):
        cache_folder()
