"""With several ranks, an error of the user is printed once, without a traceback of this package or of torch."""

import os
import subprocess
import sys
from pathlib import Path

from tests.distributed.spawn import torchrun

TORCHRUN_REPORT = "torch/distributed/elastic/"
"""Where the report of `torchrun` itself starts."""

ONE_RANK_FAILS = """
import sys, types
from cogvideox.cli import main
from cogvideox.errors import UserError
from cogvideox.parallel.mesh import init_ranks

def run(arguments):
    with init_ranks(device="cpu") as ranks:
        ranks.all_gather_objects(0)
        if ranks.rank == 1:
            raise UserError("the disk of rank 1 is full")
        ranks.all_gather_objects(1)

main.COMMANDS["fail"] = ""
sys.modules["cogvideox.cli.fail"] = types.SimpleNamespace(run=run)
sys.exit(main.main(["fail"]))
"""


def own_lines(stderr: str) -> list[str]:
    """Return the lines before the report of `torchrun`, without its log."""
    lines = stderr.split("Traceback")[0].splitlines() if TORCHRUN_REPORT in stderr else stderr.splitlines()
    return [line for line in lines if line.startswith("cogvideox:")]


def test_an_invalid_setting_is_printed_once(tmp_path: Path):
    process = torchrun("train", "toybox-sft", "optim.learning_rat=1", "--out", str(tmp_path / "run"))
    assert process.returncode != 0
    assert process.stderr.count("optim.learning_rat") == 1
    assert len(own_lines(process.stderr)) == 1, process.stderr
    assert process.stderr.count("Traceback") <= 1  # that of the launcher
    assert not (tmp_path / "run").exists()


def test_an_error_of_one_rank_is_printed_once(tmp_path: Path):
    """The other rank loses its connection, which is no error of its own."""
    script = tmp_path / "fail.py"
    script.write_text(ONE_RANK_FAILS)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    process = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert process.returncode != 0
    assert own_lines(process.stderr) == ["cogvideox: the disk of rank 1 is full"], process.stderr
    assert process.stderr.count("Traceback") <= 1
