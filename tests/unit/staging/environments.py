"""A virtual environment made by hand: the files that matter, and a package."""

from __future__ import annotations

from pathlib import Path

from raycluster_cli.staging.sources import Interpreter


def make_environment(shared: Path) -> Interpreter:
    """An environment and its base Python below ``shared``."""
    env, base = shared / "env", shared / "python"
    site = env / "lib/python3.11/site-packages"
    (site / "package").mkdir(parents=True)
    (env / "bin").mkdir()
    for name in ("bin", "lib/python3.11/test", "lib/python3.11/site-packages", "include", "share"):
        (base / name).mkdir(parents=True)
    (base / "bin/python3.11").write_bytes(b"\x7fELF\0" + b"x" * 100)
    (base / "bin/python3.11").chmod(0o755)
    (base / "lib/python3.11/os.py").write_text("# os\n")
    (base / "lib/python3.11/test/test_os.py").write_text("# not copied\n")
    (base / "share/doc").write_text("not copied\n")
    (env / "bin/python").symlink_to(base / "bin/python3.11")
    (env / "bin/python3").symlink_to("python")
    (env / "pyvenv.cfg").write_text(f"home = {base}/bin\ninclude-system-site-packages = false\n")
    (env / "bin/tool").write_text(f"#!{env}/bin/python\nprint(1)\n")
    (env / "bin/tool").chmod(0o755)
    (site / "package/__init__.py").write_text("VALUE = 1\n")
    (site / "package/empty.py").write_text("")
    (site / "package/large.bin").write_bytes(bytes(range(256)) * 40_000)
    (site / "mine.pth").write_text(f"{shared}/src\n{env}/more\n")
    return Interpreter(
        executable=f"{env}/bin/python",
        prefix=str(env),
        base_prefix=str(base),
        version="python3.11",
    )
