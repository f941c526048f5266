"""The package itself: what `import cogvideox` gives and what it leaves alone."""

import subprocess
import sys

import pytest

import cogvideox


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, cogvideox; print(*sorted({'torch', 'numpy', 'av', 'tyro', 'transformers'} & set(sys.modules)))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.split() == []


@pytest.mark.parametrize("name", cogvideox.__all__)
def test_every_public_name_arrives(name):
    assert name in dir(cogvideox)
    assert getattr(cogvideox, name) is getattr(cogvideox, name)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="CogVideoY"):
        _ = cogvideox.CogVideoY
