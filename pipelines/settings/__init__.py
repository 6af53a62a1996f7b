"""Configurations of runs, from YAML and the command line; unknown keys are refused.

`ModelConfig` is what every command has that loads the model: which weights, and how they are
computed with. `RunConfig` is what every run over manifests has besides: who, what, where to.
`BenchmarkConfig` and `pipelines.synthesis.config.SynthesisConfig` add what their job does with it.
"""

from __future__ import annotations

from pipelines.settings.benchmark import BenchmarkConfig, Requirement, load_config
from pipelines.settings.model import ModelConfig
from pipelines.settings.records import Strict, load_settings
from pipelines.settings.run import Resources, RunConfig

__all__ = [
    "BenchmarkConfig",
    "ModelConfig",
    "Requirement",
    "Resources",
    "RunConfig",
    "Strict",
    "load_config",
    "load_settings",
]
