"""The versions of the packages that a stored number depends on."""

from __future__ import annotations

import platform
from importlib.metadata import version
from importlib.util import find_spec

from autoprune.core.export_formats import ONNX_PACKAGES, missing_onnx


def versions() -> dict[str, str]:
    """Return package → version: Python, what a search needs, and what exports need as far as it is there."""
    packages = ["autoprune", "torch", "torchvision", "optuna", "numpy", "scikit-learn"]
    packages += [name for name in ONNX_PACKAGES if name not in missing_onnx()]
    packages += ["openvino"] if find_spec("openvino") else []
    return {"python": platform.python_version(), **{name: version(name) for name in packages}}
