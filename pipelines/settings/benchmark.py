"""What the main job does."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, SecretStr, field_validator

from pipelines.settings.records import Strict, load_settings
from pipelines.settings.run import RunConfig
from pipelines.tables.choices import parse_seeds

if TYPE_CHECKING:
    from eval.judges.given import GivenJudges

__all__ = ["BenchmarkConfig", "Requirement", "load_config"]

VLM_KEY = "INFINITE_ID_VLM_KEY"


class Requirement(Strict):
    """What a finished run has to reach, else the job's exit code is 1.

    `metric` is a column of the scores, its mean over the pictures of `method` (in `style` alone
    where one is named) is compared.
    """

    method: str
    metric: str
    style: str | None = None
    at_least: float | None = Field(None, allow_inf_nan=False)
    at_most: float | None = Field(None, allow_inf_nan=False)


class BenchmarkConfig(RunConfig):
    """What the main job does, with what `RunConfig` has.

    Attributes:
        requirements: on the means of scores; exit code 1 where the finished run misses one.
        max_rejects: of a finished run, 0 or more; exit code 1 where it has more. None: any number.
        groups: manifest of people who stand in one picture; None: no groups.
        methods: of `infinite_id.methods.METHODS`, one or more, each once.
        seeds: of every person, prompt and style: "0:4" (0 to 3), "7" or "0,3,9"; 0 or more.
        limit: most pictures per method, 1 or more; None: all.
        metrics: of `eval.metrics.METRICS` and `GROUPS`; None: the default ones.
        judges: name of a judge (`eval.judges.given.JUDGES`) -> its address: arcface, adaface,
            aesthetic, hpsv2, vlm.
        vlm_model: name of the model behind the judge vlm.
        vlm_key: of that endpoint; None: of the environment variable INFINITE_ID_VLM_KEY, else
            none. No record or message shows it.
        adaface_channels: order that the file of the judge adaface reads, "bgr" or "rgb"; None: by
            its names (docs/metrics.md).
        output: run folder, any fsspec address.
        tracking_uri: MLflow's; "none": no tracking; None: MLFLOW_TRACKING_URI, else a SQLite file
            beside a local output.
        experiment: MLflow's name of it; None: MLFLOW_EXPERIMENT_NAME, else infinite-id.
        set_pictures: most pictures per method for the metrics of whole sets, 0 or more; 0: none.
    """

    decides: ClassVar[frozenset[str]] = RunConfig.decides | {
        "methods", "seeds", "limit", "metrics", "judges", "vlm_model", "adaface_channels",
    }  # fmt: skip

    requirements: list[Requirement] = Field(default_factory=list)
    max_rejects: int | None = Field(None, ge=0)  # a finished run with more ends with exit code 1
    groups: str | None = None
    methods: list[str] = Field(["infinite_id"], min_length=1)
    seeds: str = "0"
    limit: int | None = Field(None, ge=1)
    metrics: list[str] | None = None
    judges: dict[str, str] = Field(default_factory=dict)
    vlm_model: str = ""
    vlm_key: SecretStr | None = None
    adaface_channels: Literal["bgr", "rgb"] | None = None
    output: str = "runs/benchmark"
    tracking_uri: str | None = None
    experiment: str | None = None
    set_pictures: int = Field(1000, ge=0)  # of a method, for the metrics of whole sets; 0: none

    @property
    def method_names(self) -> list[str]:
        """The methods that the run generates with."""
        return self.methods

    @field_validator("methods")
    @classmethod
    def _methods(cls, value: list[str]) -> list[str]:
        from infinite_id.methods import METHODS

        for name in value:
            if name not in METHODS:
                raise ValueError(f"unknown method {name!r}, allowed: {', '.join(sorted(METHODS))}")
        if len(set(value)) != len(value):
            raise ValueError("a method stands twice, allowed: each once")
        return value

    @field_validator("metrics")
    @classmethod
    def _metrics(cls, value: list[str] | None) -> list[str] | None:
        if value is None:
            return None
        from eval.metrics import GROUPS, METRICS, metric_names

        for name in value:
            if name not in METRICS and name not in GROUPS:
                allowed = ", ".join([*METRICS, *GROUPS])
                raise ValueError(f"unknown metric {name!r}, allowed: {allowed}")
        metric_names(value)
        return value

    @field_validator("judges")
    @classmethod
    def _judges(cls, value: dict[str, str]) -> dict[str, str]:
        from eval.judges.given import JUDGES

        for name in value:
            if name not in JUDGES:
                raise ValueError(f"unknown judge {name!r}, allowed: {', '.join(JUDGES)}")
        return value

    def _conditions(self) -> str:
        """The face network whose embeddings the methods see, "none" for none."""
        # Plus-face weights read no face embedding.
        if self.adapter is None and self.preset.startswith("sdxl_plus_face"):
            return "none"
        return self.family().encoders.faces

    def given_judges(self) -> GivenJudges:
        """The judges with what the endpoint needs; addresses are as they were written."""
        from eval.judges.given import GivenJudges

        key = self.vlm_key.get_secret_value() if self.vlm_key else ""
        return GivenJudges(
            addresses=self.judges,
            conditions=self._conditions(),
            vlm_model=self.vlm_model,
            vlm_key=key or os.environ.get(VLM_KEY, ""),
            adaface_channels=self.adaface_channels,
        )

    @field_validator("seeds")
    @classmethod
    def _seeds(cls, value: str) -> str:
        parse_seeds(value)
        return value


def load_config(path: str | None = None, **overrides: Any) -> BenchmarkConfig:
    """The benchmark's configuration; see `load_settings`."""
    return load_settings(BenchmarkConfig, path, **overrides)
