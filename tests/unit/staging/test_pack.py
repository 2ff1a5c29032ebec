"""An environment is found, copied and packed; other nodes unpack the same."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from raycluster_cli.staging.inventory import Changed, Entry, run_in_threads, take_inventory
from raycluster_cli.staging.pack import BrokenPack, Layout, copy_and_pack, unpack
from raycluster_cli.staging.preparation import prepare
from raycluster_cli.staging.sources import Source, find_sources
from tests.unit.staging.environments import make_environment


def tree(root: Path) -> dict[str, tuple[object, ...]]:
    """Everything below a directory: link target, or mode, time and content."""
    found: dict[str, tuple[object, ...]] = {}
    for path in sorted(root.rglob("*")):
        name = str(path.relative_to(root))
        if path.is_symlink():
            found[name] = (os.readlink(path),)
        elif path.is_file():
            found[name] = (path.stat().st_mode & 0o777, path.stat().st_mtime_ns, path.read_bytes())
        else:
            found[name] = ()
    return found


def test_the_copy_and_what_is_unpacked_are_the_same_and_name_their_own_path(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "shared")
    sources = find_sources(python, {})
    inventory = take_inventory(sources)
    target = tmp_path / "copy"
    outside = prepare(inventory, sources, str(target))
    note = copy_and_pack(inventory, target, tmp_path / "pack")
    first = tree(target)
    target.rename(tmp_path / "first")
    unpack(tmp_path / "pack", note, target)
    assert tree(target) == first
    assert outside == [str(tmp_path / "shared/src")]
    env = target / "env"
    assert (env / "pyvenv.cfg").read_text().startswith(f"home = {target}/base/bin\n")
    assert (env / "bin/tool").read_text() == f"#!{env}/bin/python\nprint(1)\n"
    assert os.access(env / "bin/tool", os.X_OK)
    assert os.readlink(env / "bin/python") == f"{target}/base/bin/python3.11"
    assert os.readlink(env / "bin/python3") == "python"
    site = "lib/python3.11/site-packages"
    assert (env / site / "mine.pth").read_text() == f"{tmp_path}/shared/src\n{env}/more\n"
    large = tmp_path / "shared/env" / site / "package/large.bin"
    assert (env / site / "package/large.bin").read_bytes() == large.read_bytes()
    assert (env / site / "package/large.bin").stat().st_mtime_ns == large.stat().st_mtime_ns
    assert not (target / "base/lib/python3.11/test").exists()
    assert not (target / "base/share").exists()


def test_the_hash_changes_with_the_environment(tmp_path: Path) -> None:
    python = make_environment(tmp_path)
    sources = find_sources(python, {})

    def digest() -> str:
        found = take_inventory(sources).digest
        assert take_inventory(sources, whole=False).digest == found
        return found

    seen = [digest()]
    site = tmp_path / "env/lib/python3.11/site-packages"
    (site / "package/__pycache__").mkdir()
    (site / "package/__pycache__/new.cpython-311.pyc").write_bytes(b"compiled")
    assert digest() == seen[0]
    (site / "package/new.py").write_text("")
    seen.append(digest())
    (site / "package-1.dist-info").mkdir()
    (site / "package-1.dist-info/RECORD").write_text("package/new.py,,\n")
    seen.append(digest())
    os.utime(site / "package-1.dist-info/RECORD", ns=(1, 1))  # the same was installed again
    seen.append(digest())
    (site / "package/new.py").unlink()
    seen.append(digest())
    assert len(set(seen)) == len(seen)


def test_a_directory_with_many_files_is_found_whole(tmp_path: Path) -> None:
    for number in range(100):
        (tmp_path / f"{number}.py").write_text(str(number))
    found = take_inventory([Source(str(tmp_path), "env")])
    assert found.files == 100
    assert found.size_bytes == 10 + 2 * 90


@pytest.mark.parametrize("change", ["shorter", "removed"])
def test_an_environment_that_changes_meanwhile_is_noticed(tmp_path: Path, change: str) -> None:
    python = make_environment(tmp_path / "shared")
    sources = find_sources(python, {})
    inventory = take_inventory(sources)
    prepare(inventory, sources, str(tmp_path / "copy"))
    file = tmp_path / "shared/env/lib/python3.11/site-packages/package/large.bin"
    if change == "removed":
        file.unlink()
    else:
        file.write_bytes(b"x")
    with pytest.raises(Changed, match=r"large\.bin"):
        copy_and_pack(inventory, tmp_path / "copy", None)


@pytest.mark.parametrize(("at", "text"), [(0.3, "damaged"), (1.0, "not complete")])
def test_a_broken_pack_is_refused(tmp_path: Path, at: float, text: str) -> None:
    python = make_environment(tmp_path / "shared")
    sources = find_sources(python, {})
    inventory = take_inventory(sources)
    pack = tmp_path / "pack"
    note = copy_and_pack(inventory, tmp_path / "copy", pack)
    data = bytearray(pack.read_bytes())
    data[min(int(len(data) * at), len(data) - 1)] ^= 0xFF
    pack.write_bytes(data)
    with pytest.raises(BrokenPack, match=text):
        unpack(pack, note, tmp_path / "unpacked")


def test_a_pack_that_was_cut_is_refused(tmp_path: Path) -> None:
    python = make_environment(tmp_path / "shared")
    sources = find_sources(python, {})
    pack = tmp_path / "pack"
    note = copy_and_pack(take_inventory(sources), tmp_path / "copy", pack)
    pack.write_bytes(pack.read_bytes()[:1000])
    with pytest.raises(BrokenPack):
        unpack(pack, note, tmp_path / "unpacked")


def test_the_layout_has_each_byte_once() -> None:
    sizes = [0, 5, 25, 3, 10, 0, 7]
    entries = [Entry(f"{at}", f"/{at}", "f", size=size) for at, size in enumerate(sizes)]
    entries[4].replaces = ("/a", "/b")  # changed as a whole
    layout = Layout.of(entries, chunk_bytes=10)
    assert layout.size_bytes == sum(sizes)
    pieces: dict[int, list[tuple[int, int]]] = {}
    at = 0
    for chunk in layout.chunks:
        assert chunk.at == at
        assert chunk.size == sum(size for _, _, size in chunk.pieces)
        at += chunk.size
        for number, begin, size in chunk.pieces:
            pieces.setdefault(number, []).append((begin, size))
    for number, size in enumerate(sizes):
        assert pieces[number][0][0] == 0
        assert sum(piece for _, piece in pieces[number]) == size
    assert pieces[4] == [(0, 10)]
    assert len(pieces[2]) > 1


def test_a_failure_in_one_thread_ends_all() -> None:
    def fail() -> None:
        raise Changed("it changed")

    with pytest.raises(Changed, match="it changed"):
        run_in_threads([fail, *[lambda: None] * 100], 4)
