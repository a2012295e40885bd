"""scripts/bothends makes its environment once, in whatever state it finds the checkout.

Most of these run the real scripts on a stand-in project: it has no dependencies and brings its
own build backend, so that making an environment takes seconds and no network.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import bothends

ROOT = Path(__file__).resolve().parent.parent
NOBODY = 65534

PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]

[project]
name = "bothends"
version = "1.2.3"
"""

BACKEND = """
import pathlib
import zipfile

DIST_INFO = "bothends-1.2.3.dist-info"


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    files = {
        "bothends.pth": str(pathlib.Path("agent").resolve()),
        f"{DIST_INFO}/METADATA": "Metadata-Version: 2.1\\nName: bothends\\nVersion: 1.2.3\\n",
        f"{DIST_INFO}/WHEEL": "Wheel-Version: 1.0\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n",
    }
    files[f"{DIST_INFO}/RECORD"] = "".join(f"{name},,\\n" for name in files)
    wheel = "bothends-1.2.3-py3-none-any.whl"
    with zipfile.ZipFile(pathlib.Path(wheel_directory, wheel), "w") as archive:
        for name, text in files.items():
            archive.writestr(name, text)
    return wheel
"""

AGENT = """
import sys

print("stand-in", *sys.argv[1:])
raise SystemExit(7)
"""


def make_checkout(folder: Path) -> Path:
    """Lay a stand-in checkout with the real scripts out in a new folder."""
    (folder / "agent/bothends").mkdir(parents=True)
    (folder / "scripts").mkdir()
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "backend.py").write_text(BACKEND)
    (folder / "agent/bothends/__init__.py").touch()
    (folder / "agent/bothends/__main__.py").write_text(AGENT)
    for script in ("bothends", "set-up.sh"):
        shutil.copy(ROOT / "scripts" / script, folder / "scripts" / script)
    return folder


def start(
    script: Path, *arguments: str, cwd: Path | None = None, user: int | None = None, **env: str
) -> subprocess.Popen[str]:
    """Start a script in a session of its own, without any network for pip."""
    return subprocess.Popen(
        [script, *arguments],
        cwd=cwd,
        env=os.environ | {"PIP_NO_INDEX": "1"} | env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        user=user,
        group=user,
        extra_groups=[] if user else None,
        start_new_session=True,
    )


def run(
    script: Path, *arguments: str, cwd: Path | None = None, user: int | None = None, **env: str
) -> tuple[int, str, str]:
    """Run a script to its end: exit status, standard output, standard error."""
    with start(script, *arguments, cwd=cwd, user=user, **env) as process:
        output, errors = process.communicate()
    return process.returncode, output, errors


@pytest.fixture(scope="module")
def first_use(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tuple[int, str, str]]:
    """A checkout whose environment has been made, and what making it looked like."""
    checkout = make_checkout(tmp_path_factory.mktemp("scripts") / "checkout")
    return checkout, run(checkout / "scripts/bothends", "first", "use")


@pytest.fixture
def made(first_use: tuple[Path, tuple[int, str, str]]) -> Path:
    return first_use[0]


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_the_version_is_that_of_the_package() -> None:
    status, output, _ = run(ROOT / "scripts/bothends", "--version")
    assert (status, output) == (0, f"bothends {bothends.__version__}\n")


def test_first_use_makes_the_environment_and_then_runs_the_agent(
    first_use: tuple[Path, tuple[int, str, str]],
) -> None:
    checkout, (status, output, errors) = first_use
    assert (status, output) == (7, "stand-in first use\n"), errors
    assert errors.count("\n") == 1
    assert f"makes its Python environment in {checkout}/.venv" in errors


def test_later_uses_make_nothing_and_say_nothing(made: Path) -> None:
    assert run(made / "scripts/bothends") == (7, "stand-in\n", "")


def test_arguments_arrive_as_they_are(made: Path) -> None:
    strange = ["two words", "*", "$HOME", "", "--json"]
    _, output, _ = run(made / "scripts/bothends", *strange)
    assert output == " ".join(["stand-in", *strange]) + "\n"


def test_runs_through_a_symlink_from_any_folder(made: Path, tmp_path: Path) -> None:
    (tmp_path / "anywhere").symlink_to(made / "scripts/bothends")
    (tmp_path / "again").symlink_to("anywhere")
    assert run(tmp_path / "again", cwd=tmp_path) == (7, "stand-in\n", "")


def test_a_module_in_the_current_folder_shadows_nothing(made: Path, tmp_path: Path) -> None:
    (tmp_path / "bothends").mkdir()
    (tmp_path / "bothends/__main__.py").write_text("print('the wrong one')")
    assert run(made / "scripts/bothends", cwd=tmp_path) == (7, "stand-in\n", "")


def test_changed_dependencies_are_brought_in_without_starting_over(made: Path) -> None:
    witness = made / ".venv/witness"
    witness.touch()
    with (made / "pyproject.toml").open("a") as pyproject:
        pyproject.write('description = "changed"\n')
    status, output, errors = run(made / "scripts/bothends")
    assert (status, output, errors.count("\n")) == (7, "stand-in\n", 1)
    assert "up to date" in errors
    assert witness.exists()
    assert run(made / "scripts/bothends") == (7, "stand-in\n", "")


def test_a_moved_checkout_and_a_python_that_is_gone_make_a_new_one(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "before")
    run(checkout / "scripts/bothends")
    checkout = checkout.rename(tmp_path / "after")
    (checkout / ".venv/witness").touch()
    assert run(checkout / "scripts/bothends")[:2] == (7, "stand-in\n")
    assert not (checkout / ".venv/witness").exists()
    python = (checkout / ".venv/bin/python").resolve()
    for link in (checkout / ".venv/bin").glob("python*"):
        link.unlink()
        link.symlink_to(f"{python}-gone")
    assert run(checkout / "scripts/bothends")[:2] == (7, "stand-in\n")


def test_two_first_uses_at_once_do_not_disturb_each_other(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    both = [start(checkout / "scripts/bothends", str(number)) for number in range(2)]
    errors = ""
    for number, process in enumerate(both):
        output, said = process.communicate()
        assert (process.returncode, output) == (7, f"stand-in {number}\n"), said
        errors += said
    assert errors.count("makes its Python environment") == 1


def test_a_first_use_that_was_killed_is_not_taken_as_good(tmp_path: Path) -> None:
    checkout = make_checkout(tmp_path / "checkout")
    with start(checkout / "scripts/bothends") as process:
        wait_until((checkout / ".venv/bin/python").exists)
        os.killpg(process.pid, signal.SIGKILL)
    status, output, errors = run(checkout / "scripts/bothends")
    assert (status, output) == (7, "stand-in\n")
    assert "makes its Python environment" in errors


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that every user can reach, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root, to become another user")
def test_a_checkout_that_may_not_be_written_uses_the_cache(open_folder: Path) -> None:
    script = make_checkout(open_folder / "checkout") / "scripts/bothends"
    cache = open_folder / "cache"
    cache.mkdir()
    os.chown(cache, NOBODY, NOBODY)

    def use(cache: Path) -> tuple[int, str, str]:
        return run(script, user=NOBODY, XDG_CACHE_HOME=str(cache), HOME="/nonexistent")

    status, output, errors = use(cache)
    assert (status, output) == (7, "stand-in\n"), errors
    assert str(cache) in errors
    assert use(cache) == (7, "stand-in\n", "")
    status, output, errors = use(open_folder / "checkout/cache")
    assert (status, output, errors.count("\n")) == (1, "", 1)
    assert "XDG_CACHE_HOME" in errors


@pytest.mark.parametrize(
    ("interpreter", "said"),
    [(None, "needs Python 3.11 or newer"), ("/bin/false", "apt-get install python3-venv")],
)
def test_says_what_to_install_where_it_can_make_none(
    tmp_path: Path, interpreter: str | None, said: str
) -> None:
    script = make_checkout(tmp_path / "checkout") / "scripts/bothends"
    found = f"echo all {interpreter}" if interpreter else ":"
    text = script.read_text()
    script.write_text(
        text.replace("use_environment run", f"interpreters() {{ {found}; }}\nuse_environment run")
    )
    status, output, errors = run(script)
    assert (status, output, errors.count("\n")) == (1, "", 2)
    assert said in errors
