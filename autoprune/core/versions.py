"""The versions of the packages that a stored number depends on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from importlib.util import find_spec


def versions() -> dict[str, str]:
    """Return the versions that a stored number depends on."""
    packages = ["autoprune", "torch", "torchvision", "optuna", "numpy", "scikit-learn"]
    packages += [name for name in ("onnx", "onnxruntime") if find_spec(name) is not None]
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
