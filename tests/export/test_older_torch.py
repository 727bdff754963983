"""A picked folder loads in an older PyTorch, without autoprune, in an environment of its own.

The oldest that autoprune takes comes first; a package index need not have it any more.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import write_task
from tiny_study import tiny_spec

import autoprune
from autoprune.core.policy import PruningPolicy
from autoprune.export.architecture import PrunedArchitecture
from autoprune.export.saved_network import save_network
from autoprune.search.setup.prepare_study import prepare_study
from autoprune.study.folder import StudyFolder

pytestmark = [pytest.mark.long, pytest.mark.usefixtures("process_is_left_as_it_was"), pytest.mark.timeout(900)]
OLDEST = "2.6.0"  # as pyproject.toml says
OLDER = (OLDEST, "2.8.0", "2.10.0", "2.13.0")
CPU_BUILDS = "https://download.pytorch.org/whl/cpu"
PLAIN = Path(autoprune.__file__).with_name("export") / "standalone.py"
PROGRAM = """
import importlib.util, json, sys
from safetensors.torch import load_file, save_file
import torch

def module(path):
    spec = importlib.util.spec_from_file_location("given", path)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found

plain, code, folder, images, answers = sys.argv[1:]
network = module(plain).rebuild(folder, module(code).net(3, 1))
with torch.no_grad():
    save_file({"answers": network(load_file(images)["images"])}, answers)
print(json.dumps([torch.__version__, "autoprune" in sys.modules]))
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the interpreter of an environment with the oldest PyTorch to be had; skipped where there is none."""
    folder = tmp_path_factory.mktemp("older")
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    found = folder / "bin" / "python"
    pip = [str(found), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--retries", "1"]
    for version in OLDER:
        wanted = [f"torch=={version}", "numpy", "--index-url", CPU_BUILDS]
        done = subprocess.run([*pip, *wanted], capture_output=True, text=True, timeout=800, check=False)
        if not done.returncode:
            break
    else:
        pytest.skip(f"no older PyTorch for CPUs to be had here: {done.stderr.strip().splitlines()[-1]}")
    subprocess.run([*pip, "safetensors", "numpy"], check=True, timeout=300)
    return found


def test_the_oldest_torch_is_the_one_that_is_promised() -> None:
    pyproject = Path(autoprune.__file__).parents[1] / "pyproject.toml"
    assert f'"torch>={OLDEST.removesuffix(".0")}"' in pyproject.read_text(encoding="utf-8")


def test_a_picked_network_answers_alike_in_an_older_torch(python: Path, tmp_path: Path) -> None:
    code, study_folder, picked = write_task(tmp_path), StudyFolder(tmp_path / "study"), tmp_path / "picked"
    study_folder.create()
    picked.mkdir()
    study = prepare_study(tiny_spec(code), study_folder, lambda message: None)
    policy = study.space.canonical(PruningPolicy.uniform(0.5, "l1", names=study.space.by_name))
    network, cut = study.pruner.prune(policy).eval(), study.pruner.cut(policy)
    save_network(picked, network, PrunedArchitecture.of(network, cut, study.architecture, policy, {}))
    images = torch.rand(5, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    save_file({"images": images}, tmp_path / "images.safetensors")
    files = [PLAIN, code, picked, tmp_path / "images.safetensors", tmp_path / "answers.safetensors"]
    done = subprocess.run(
        [str(python), "-I", "-c", PROGRAM, *map(str, files)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    version, has_autoprune = json.loads(done.stdout.splitlines()[-1])
    assert version.partition("+")[0] in OLDER
    assert not has_autoprune
    with torch.no_grad():
        expected = network(images)
    torch.testing.assert_close(load_file(tmp_path / "answers.safetensors")["answers"], expected, rtol=1e-5, atol=1e-6)
