"""The settings of training, each with its unit."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class TrainingSettings(BaseModel):
    """How a model is trained; None means: chosen from the data by `auto`."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    batch: int | None = Field(None, ge=1, description="rows a step")
    steps: int | None = Field(None, ge=1, description="optimisation steps at most")
    budget: float | None = Field(None, gt=0, description="seconds of training at most")
    optimiser: Literal["adam", "muon"] | None = Field(None, description="muon for kernels, adam for the rest")
    learning_rate: float | None = Field(None, gt=0, description="after warm-up")
    beta2: float = Field(0.99, gt=0, lt=1, description="of Adam")
    warmup: float = Field(0.02, ge=0, lt=1, description="share of training in which the learning rate rises")
    decay: float = Field(1.0, ge=0, le=1, description="last share of training in which it falls to zero")
    clip: float = Field(1.0, gt=0, description="largest norm of the gradient")
    average: float = Field(0.05, ge=0, le=0.5, description="averages of weights look back over this share of training")
    precision: Literal["auto", "float32", "bfloat16"] = Field("auto", description="of the network's products")
    antithetic: bool | Literal["auto"] = Field(
        "auto", description="whether rows with little noise come in pairs with ε and −ε; auto: where it helps"
    )
    held_out: float | None = Field(
        None,
        ge=0,
        lt=1,
        description="share of the rows kept for the held-out loss, at most 2000; by default 0.1",
    )
    patience: int | None = Field(
        None,
        ge=0,
        description="evaluations with a risen held-out loss after which training stops, 0 for never; by default 5",
    )


class CheckpointSettings(BaseModel):
    """How often training is saved."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    every: int | None = Field(None, ge=1, description="steps from one checkpoint to the next; None means 30 seconds")
    keep: int = Field(2, ge=1, description="how many of the newest stay")
