"""One file with all modules that a start imports: one path of a shared file system instead of three hundred.

Python looks up two to six paths for each module that it imports.  The head of an installed raycluster leaves
the compiled modules, raycluster's own and those of Python's library, in one file (bundle_writer.py).  Later
starts read the modules from there; Python imports what it does not hold, or no longer holds, as usual.

A bundle is used if it names this Python's version and build, and the times at which its library and
raycluster's directories were changed last.  This module imports nothing that Python has not loaded already,
not even annotations from __future__.
"""

import _frozen_importlib_external as external
import _imp
import marshal
import os
import sys

TYPE_CHECKING = False  # not typing's, which is twenty modules
if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from importlib.machinery import ModuleSpec
    from types import CodeType, ModuleType
    from typing import Any

#: The first bytes of the file; another layout gets another number.
MAGIC = b"rcbundle3\n"

#: What `Bundle.tables` holds is at most so large; more is no bundle.
TABLES_MAX_BYTES = 1_000_000

#: raycluster's own directory.
PACKAGE = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

#: Directories of installed packages; raycluster elsewhere is a checkout, whose modules change.
_INSTALLED = ("site-packages", "dist-packages")

#: A bundle is read in parts of this size, of which so many are in memory.
PART_BYTES, PARTS = 64 * 1024, 8


class Bundle:
    """An open bundle: finds and loads modules for Python (PEP 451)."""

    def __init__(self, fd: int, tables: "Mapping[str, Any]", begin: int) -> None:
        """``begin``: where in the file the code begins."""
        self._fd = fd
        self._begin = begin
        self._roots = roots()
        self._modules: Mapping[str, tuple[str, str, bool, int, int]] = tables["modules"]
        """By name: which root, path below it, whether it is a package, offset and length of its code."""
        self._extensions: Mapping[str, tuple[str, str]] = tables["extensions"]
        self.tables = tables
        self._parts: dict[int, bytes] = {}
        """Those that were read last, by their number."""

    def find_spec(
        self, name: str, path: "Sequence[str] | None" = None, target: "ModuleType | None" = None
    ) -> "ModuleSpec | None":
        if name in self._modules:
            root, below, is_package, _, _ = self._modules[name]
            file = f"{self._roots[root]}/{below}"
            return external.spec_from_file_location(
                name,
                file,
                loader=_Loader(name, file, self),
                submodule_search_locations=[os.path.dirname(file)] if is_package else None,
            )
        if name in self._extensions:
            root, below = self._extensions[name]
            file = f"{self._roots[root]}/{below}"
            return external.spec_from_file_location(
                name, file, loader=external.ExtensionFileLoader(name, file)
            )
        return None

    def code(self, name: str) -> "CodeType":
        """Raises OSError, ValueError, EOFError or TypeError where the file does not give it."""
        _, _, _, offset, length = self._modules[name]
        first, last = offset // PART_BYTES, (offset + length - 1) // PART_BYTES
        text = b"".join([self._part(number) for number in range(first, last + 1)])
        at = offset - first * PART_BYTES
        code: CodeType = marshal.loads(text[at : at + length])
        if not hasattr(code, "co_code"):
            raise ValueError(f"{name} is not code")
        return code

    def _part(self, number: int) -> bytes:
        """A part of the code.  Threads may import at the same time.

        A call for each module would be an operation of the file system for each, or two.  The modules are in
        the order in which a start needs them, so what comes next is needed next.
        """
        part = self._parts.get(number)
        if part is None:
            for oldest in list(self._parts)[: 1 - PARTS]:
                self._parts.pop(oldest, None)
            self._parts[number] = part = os.pread(self._fd, PART_BYTES, self._begin + number * PART_BYTES)
        return part

    def forget(self) -> None:
        """Free what was read last: most modules have been imported."""
        self._parts.clear()

    def close(self) -> None:
        os.close(self._fd)


class _Loader(external.SourceFileLoader):
    """A module of the bundle; for all but its code, and where that fails, it is Python's own loader."""

    def __init__(self, name: str, path: str, bundle: Bundle) -> None:
        super().__init__(name, path)
        self._bundle = bundle

    def get_code(self, fullname: str) -> "CodeType | None":
        try:
            code = self._bundle.code(fullname)
        except (OSError, ValueError, EOFError, TypeError):
            return super().get_code(fullname)
        _imp._fix_co_filename(code, self.path)  # type: ignore[attr-defined]
        return code


def use_bundle(env: "Mapping[str, str]") -> "Bundle | None":
    """Import from the bundle from now on, where there is one that fits."""
    if not is_installed(PACKAGE):
        return None
    for path in places(env):
        try:
            bundle = open_bundle(path)
        except (OSError, ValueError, EOFError, TypeError, KeyError):
            continue
        if bundle is not None:
            sys.meta_path.insert(0, bundle)
            return bundle
    return None


def forget_code() -> None:
    """Free the memory of the bundle; what is imported from it later is read then."""
    for finder in sys.meta_path:
        if isinstance(finder, Bundle):
            finder.forget()


def open_bundle(path: str) -> "Bundle | None":
    """None for one that does not fit.  Raises OSError, or another error for a file that is broken."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        found = os.fstat(fd)
        head = os.pread(fd, len(MAGIC) + 16, 0)
        size, whole = (int.from_bytes(head[at : at + 8], "little") for at in (len(MAGIC), len(MAGIC) + 8))
        # Who may write beside the modules may change these, too.
        trusted = path.startswith(f"{PACKAGE}/") or (
            found.st_uid == os.geteuid() and not found.st_mode & 0o022
        )
        if not head.startswith(MAGIC) or found.st_size != whole or size > TABLES_MAX_BYTES or not trusted:
            raise ValueError(f"{path} is no bundle")
        tables = marshal.loads(os.pread(fd, size, len(head)))
        if tables["python"] == python() and tables["times"] == times(tables["times"]):
            fd, kept = -1, fd
            return Bundle(kept, tables, len(head) + size)
        return None
    finally:
        if fd >= 0:
            os.close(fd)


def is_installed(package: str) -> bool:
    """Whether raycluster is installed as users do it, and is not a checkout.

    >>> is_installed("/env/lib/python3.11/site-packages/raycluster_cli"), is_installed("/src/raycluster_cli")
    (True, False)
    """
    return os.path.basename(os.path.dirname(package)) in _INSTALLED


def places(env: "Mapping[str, str]") -> list[str]:
    """Where a bundle may be: beside Python's own compiled modules, or with the user's records.

    The second is for an installation that its user may not write to.
    """
    name = f"start.{sys.implementation.cache_tag}.bundle"
    state = env.get("RAYCLUSTER_STATE_DIR") or f"{env.get('HOME', '')}/.raycluster"
    which = _imp.source_hash(0, PACKAGE.encode()).hex()
    return [
        f"{PACKAGE}/__pycache__/{name}",
        *([f"{state}/.{which}.{name}"] if os.path.isabs(state) else []),
    ]


def roots() -> dict[str, str]:
    """The directories that the paths of a bundle are relative to."""
    return {"raycluster": PACKAGE, "library": os.path.dirname(os.path.abspath(str(os.__file__)))}


def python() -> tuple[str, int, int]:
    """Which Python compiled modules are for: its version and build, and how it optimizes."""
    return sys.version, int.from_bytes(external.MAGIC_NUMBER, "little"), sys.flags.optimize


def times(named: "Mapping[tuple[str, str], int]") -> dict[tuple[str, str], int]:
    """When each directory or file was last changed, in nanoseconds; each is a root and a path below it."""
    there = roots()
    return {(root, below): os.stat(f"{there[root]}/{below}").st_mtime_ns for root, below in named}
