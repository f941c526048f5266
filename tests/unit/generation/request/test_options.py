"""Options are declared once, as fields of `Request`."""

import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cogvideox.generation.pipeline import CogVideoX
from cogvideox.generation.request.request import LoadOptions, Request
from cogvideox.options import list_options
from tests import tiny
from tools import option_keywords

PACKAGE = Path(inspect.getfile(CogVideoX)).parents[1]


def test_keywords_for_editors_are_up_to_date():
    assert option_keywords.FILE.read_text() == option_keywords.source(), "run `python tools/option_keywords.py`"


def test_generate_shows_every_option_in_its_signature_and_docstring():
    parameters = inspect.signature(CogVideoX.generate).parameters
    assert set(list_options(Request)) <= set(parameters)
    assert all(f"    {name}: " in inspect.getdoc(CogVideoX.generate) for name in list_options(Request))


@pytest.mark.parametrize("cls", [Request, LoadOptions])
def test_every_field_is_described(cls):
    options = list_options(cls)
    assert set(options) == set(cls.__dataclass_fields__)
    for option in options.values():
        assert option.help and option.group and option.type is not None
        assert option.low is None or option.high is None or option.low < option.high


def test_a_field_added_in_one_place_becomes_a_flag_a_keyword_and_a_key_of_the_sidecar(tmp_path):
    """Copy the package and add one field to `Request`."""
    models = PACKAGE / "models"
    shutil.copytree(PACKAGE, tmp_path / "cogvideox", ignore=shutil.ignore_patterns("models", "__pycache__"))
    (tmp_path / "cogvideox/models").symlink_to(models)
    file = tmp_path / "cogvideox/generation/request/request.py"
    before, marker, after = file.read_text().partition("    @property\n    def task")
    field = '    dummy: Annotated[int | None, Option("a dummy option", "sampling", metavar="N", high=9)] = None\n\n'
    file.write_text(before + field + marker + after)
    model = tiny.write(tmp_path / "model")

    def run(*command: str) -> subprocess.CompletedProcess[str]:
        env = {**os.environ, "PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
        return subprocess.run([sys.executable, *command], capture_output=True, text=True, cwd=tmp_path, env=env)

    code = (
        "import sys; from cogvideox.cli.main import main\n"
        f"common = ['generate', 'a ball', '--model', {str(model)!r}, '--num-inference-steps', '1']\n"
        "assert main(['generate', '--help-all']) == 0\n"
        "assert main([*common, '-o', 'x.mp4', '--dummy', '3']) == 0\n"
        "assert main(['generate', '--from', 'x.json', '-o', 'y.mp4']) == 0\n"
        "assert main([*common, '-o', 'z.mp4', '--dummy', '10']) == 2\n"
        "from cogvideox import CogVideoX\n"
        f"video = CogVideoX.from_pretrained({str(model)!r}).generate('a ball', dummy=3, num_inference_steps=1)\n"
        "assert video.metadata['dummy'] == 3\n"
        "assert 'dummy: a dummy option' in CogVideoX.generate.__doc__\n"
    )
    process = run("-c", code)
    assert process.returncode == 0, process.stderr
    assert "--dummy N" in process.stdout and "a dummy option" in process.stdout
    assert "--dummy 10 must be 9 or less; the nearest is 9" in process.stderr
    for name in ("x.json", "y.json"):
        assert json.loads((tmp_path / name).read_text())["dummy"] == 3
