"""The wheel: four packages, the words of the protocols beside their code, and nothing else in site-packages."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

import p2pnode

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """The wheel of this checkout, built offline by the build backend that is installed here."""
    target = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(target), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, text=True)
    (built,) = target.glob("*.whl")
    return zipfile.ZipFile(built)


def test_only_the_four_packages_land_in_site_packages(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    metadata = {top for top in tops if top.endswith(".dist-info")}
    assert tops - metadata == {"protocols", "bootstrap", "p2pnode", "simulations"}
    assert metadata == {f"p2pnode-{p2pnode.__version__}.dist-info"}


def test_every_module_of_the_checkout_is_in_the_wheel(wheel: zipfile.ZipFile) -> None:
    here = {
        path.relative_to(ROOT).as_posix()
        for package in ("protocols", "bootstrap", "p2pnode", "simulations")
        for path in (ROOT / package).rglob("*.py")
    }
    assert here - set(wheel.namelist()) == set()


def test_the_specification_and_its_vectors_travel_with_the_code(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    assert "protocols/SPEC.md" in names
    recorded = {path.relative_to(ROOT).as_posix() for path in (ROOT / "protocols" / "vectors").glob("*.json")}
    assert recorded
    assert recorded <= names


def test_the_wheel_names_its_licence_and_its_command(wheel: zipfile.ZipFile) -> None:
    info = f"p2pnode-{p2pnode.__version__}.dist-info"
    assert f"{info}/licenses/LICENSE" in wheel.namelist()
    assert "p2pnode = p2pnode.api.cli:main" in wheel.read(f"{info}/entry_points.txt").decode()
