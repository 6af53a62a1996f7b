"""The training job's configuration, from YAML and the command line; unknown keys are refused."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, field_validator

from pipelines.settings import ModelConfig, load_settings

__all__ = ["OF_A_PICTURE", "WITHOUT", "TrainingConfig", "load_training_config"]

OF_A_PICTURE = ("controlnet", "controlnet_revision", "details")
"""Settings of pictures that no training has: what is trained goes with any."""
WITHOUT = "none, for it draws without; what it trains goes with any"


class TrainingConfig(ModelConfig):
    """What a training run does; defaults are the paper's (arXiv 2403.11781) where it says.

    `data` is a Parquet file or folder with identity_id, image (encoded bytes, or a struct with
    bytes) and, optionally, caption. `output` is a folder at any fsspec address; a second run with
    the same one resumes. `check_people`: photos that do not agree with the person's others give no
    pairs, instead of a warning. `sample_steps`: a grid of sample pictures at the first checkpoint
    after every so many steps and at the end; 0 for none.
    """

    data: str
    output: str = "runs/training"
    steps: int = Field(1000, ge=1)
    batch_size: int = Field(4, ge=1)
    accumulation: int = Field(1, ge=1, le=64)
    learning_rate: float = Field(1e-4, gt=0, allow_inf_nan=False)
    weight_decay: float = Field(0.01, ge=0, allow_inf_nan=False)
    warmup_steps: int = Field(100, ge=0)
    ema_decay: float = Field(0.0, ge=0, lt=1)
    snr_gamma: float | None = Field(None, gt=0)
    precision: Literal["float32", "bfloat16"] = "float32"
    text_active: bool = False
    text_drop: float = Field(0.1, ge=0, le=1)
    identity_drop: float = Field(0.05, ge=0, le=1)
    pairs_per_photo: int = Field(2, ge=1)
    largest_face: bool = False
    check_people: bool = False
    shuffle_rows: int = Field(256, ge=1)
    seed: int = Field(0, ge=0)
    checkpoint_steps: int = Field(100, ge=1)
    sample_steps: int = Field(500, ge=0)
    workers: int = Field(1, ge=1, le=4096)
    use_gpu: bool = False
    cpus_per_worker: float = Field(1.0, gt=0)
    threads: int = Field(1, ge=1)
    strategy: Literal["ddp", "fsdp"] = "ddp"
    max_failures: int = Field(3, ge=-1)
    tracking_uri: str | None = None
    experiment: str | None = None  # MLFLOW_EXPERIMENT_NAME, else infinite-id-training
    address: str | None = None

    @field_validator(*OF_A_PICTURE)
    @classmethod
    def _nothing_of_a_picture(cls, value: Any) -> Any:
        if value not in (None, False):
            raise ValueError(f"allowed in a training: {WITHOUT}")
        return value

    def samples_due(self, before: int, now: int) -> bool:
        """Whether a multiple of `sample_steps`, or the last step, lies in (before, now]."""
        every = self.sample_steps
        return every > 0 and (now == self.steps or before // every != now // every)

    def signature(self) -> dict[str, Any]:
        """What a checkpoint must agree with; the number of steps may grow."""
        kept = (
            "preset",
            "batch_size",
            "accumulation",
            "learning_rate",
            "weight_decay",
            "ema_decay",
            "snr_gamma",
            "text_active",
            "text_drop",
            "identity_drop",
            "workers",
            "seed",
        )
        return {name: getattr(self, name) for name in kept}


def load_training_config(path: str | None = None, /, **overrides: Any) -> TrainingConfig:
    """The configuration of a YAML file with overrides on top; None overrides nothing.

    Raises:
        ValueError: one sentence with the file, the key, the value received and what is allowed.
    """
    return load_settings(TrainingConfig, path, **overrides)
