"""Everything that can be known of a run before a machine is rented: `infinite-id check FILE`."""

from __future__ import annotations

from pipelines.run.environment import quiet

quiet()

import math
import os
from typing import Annotated, Any

import typer

from jobs import options
from jobs.check_model import Checks, check_model
from jobs.console import console, user_errors
from pipelines.settings import BenchmarkConfig, ModelConfig, RunConfig, load_settings

__all__ = ["check"]


def _kinds() -> dict[str, type[ModelConfig]]:
    from pipelines.serving.config import ServiceConfig
    from pipelines.synthesis.config import SynthesisConfig
    from pipelines.training.config import TrainingConfig

    return {
        "benchmark": BenchmarkConfig,
        "synthesize": SynthesisConfig,
        "train": TrainingConfig,
        "serve": ServiceConfig,
    }


@user_errors()
def check(
    config: Annotated[
        str | None, typer.Argument(help="YAML file of the command's settings; default: none.")
    ] = None,
    command: Annotated[
        str, typer.Option("--for", help="benchmark, synthesize, train or serve.")
    ] = "benchmark",
    preset: options.Preset = None,
    output: options.Output = None,
    identities: options.Identities = None,
    layout: options.RunLayout = None,
    groups: options.Groups = None,
    address: options.Address = None,
    photos: Annotated[
        int, typer.Option(help="Photos of each person, for the estimate of memory.")
    ] = 1,
    images_per_second: Annotated[
        float | None,
        typer.Option(
            help="Of one GPU, for the time; see infinite-id plan; default: no time is told."
        ),
    ] = None,
    image_kb: Annotated[
        float, typer.Option(help="KB of an encoded picture, for the estimate of storage.")
    ] = 1500,
    override: options.Set = None,
) -> None:
    """Check weights, licences, inputs, storage, tracking and cluster; load nothing.

    Exit code 0, or 2 with every fault that was found.
    """
    kinds = _kinds()
    if command not in kinds:
        raise ValueError(f"--for is {command!r}, allowed: {', '.join(kinds)}")
    given = {"preset": preset, "output": output, "identities": identities, "address": address}
    given |= {"layout": layout, "groups": groups}
    known = kinds[command].model_fields
    if groups is not None and "groups" not in known:
        raise ValueError(f"--groups is given with --for {command}, allowed: with --for benchmark")
    settings = load_settings(
        kinds[command],
        config,
        **{**{k: v for k, v in given.items() if k in known}, **options.set_values(override)},
    )
    found = Checks()
    check_model(found, settings, photos)
    if isinstance(settings, RunConfig):
        _check_run(found, settings, images_per_second, image_kb)
    for what, said in found.rows:
        console.print(f"{what + ':':<12} {said}", markup=False)
    for fault in found.faults:
        console.print(f"fault: {fault}", markup=False)
    if found.faults:
        console.print(f"{len(found.faults)} faults: nothing was started")
        raise typer.Exit(2)
    console.print("no fault was found")


def _check_run(
    found: Checks, settings: RunConfig, images_per_second: float | None, image_kb: float
) -> None:
    from pipelines.plan.inputs import load_manifests, styled_texts

    manifests = found.attempt(lambda: load_manifests(settings))
    if manifests is not None:
        texts = styled_texts(manifests, settings.storage_options)
        people = manifests.shown
        found.faults += manifests.group_faults
        found.say("people, texts", f"{people:,}, {len(texts):,}")
        words = {row["class_word"] or "person" for row in manifests.identities.to_pylist()}
        found.attempt(lambda: _check_tokens(found, settings, texts, words or {"person"}))
        _check_pictures(found, settings, texts)
        pictures = _pictures(settings, people, len(texts))
        found.say("pictures", f"{pictures:,}")
        found.say("storage", f"{pictures * image_kb / 1e6:,.1f} GB at {image_kb:g} KB a picture")
        if images_per_second:
            hours = pictures / images_per_second / 3600
            found.say("GPU hours", f"{hours:,.1f} at {images_per_second:g} pictures/s")
    found.attempt(lambda: _check_output(found, settings))
    found.attempt(lambda: _check_tracking(found, settings))
    found.attempt(lambda: _check_cluster(found, settings))


def _pictures(settings: RunConfig, people: int, texts: int) -> int:
    from pipelines.tables.choices import parse_seeds

    if not isinstance(settings, BenchmarkConfig):
        return people * getattr(settings, "per_person", 1)
    each = people * texts * len(parse_seeds(settings.seeds))
    return min(each, settings.limit or each) * len(settings.methods)


def _check_tokens(found: Checks, settings: RunConfig, texts: Any, words: set[str]) -> None:
    """The longest text against the base's tokenizers; too long ones become rejects, one by one."""
    from transformers import CLIPTokenizer

    family = settings.family()
    if family.base == "pocket":
        from infinite_id.pocket.image_text import load_tokenizer

        tokenizers: list[Any] = [load_tokenizer()]
    else:
        from infinite_id.model_files.bases import base_files
        from pipelines.plan.weights import local_preset

        files, _ = base_files(local_preset(family, settings.storage_options))
        if files.folder is None:
            found.say("tokens", "not known before the base is downloaded")
            return
        tokenizers = [
            CLIPTokenizer.from_pretrained(files.folder / part)
            for part in ("tokenizer", "tokenizer_2")
        ]
    longest, count, most = "", 0, min(int(t.model_max_length) for t in tokenizers)
    for text in {text.prompt(word) for text in texts for word in words}:
        number = max(len(t(text, truncation=False).input_ids) for t in tokenizers)
        if number > count:
            longest, count = text, number
    found.say("tokens", f"{count} of {most} in the longest text")
    if count > most:
        raise ValueError(
            f"prompt {longest!r} has {count} tokens, allowed: {most} with begin and end"
        )


def _check_pictures(found: Checks, settings: RunConfig, texts: Any) -> None:
    """Those of prompts; what cannot be used becomes rejects, one by one."""
    from infinite_id.faces.photos import PhotoLimits
    from pipelines.tables.prompt_pictures import PictureReader, unusable

    given = dict.fromkeys((text.picture, text.control) for text in texts if text.pictures)
    if not given:
        return
    family = settings.family()
    reader = PictureReader(PhotoLimits(settings.max_photo_pixels), settings.storage_options)
    size, steps = (family.height, family.width), family.sampler.num_inference_steps
    found.faults += unusable(given, reader, size, steps)
    found.say("pictures of", f"{len(given):,} prompts")


def _check_output(found: Checks, settings: RunConfig) -> None:
    from pipelines.run.folder import RunFolder

    folder = RunFolder(settings.output, settings.storage_options, resume=settings.resume)
    found.say("output", f"{folder.store.url}: can be written")


def _check_tracking(found: Checks, settings: RunConfig) -> None:
    if not isinstance(settings, BenchmarkConfig):
        return
    from jobs.tracking import check_tracking, experiment_name, tracked_where, tracking_address

    uri = tracking_address(settings.tracking_uri, settings.output)
    check_tracking(uri, experiment_name(settings.experiment))
    found.say("MLflow", "off" if uri is None else tracked_where(uri, settings.output))


def _check_cluster(found: Checks, settings: RunConfig) -> None:
    from pipelines.stages.phases import people_stages, picture_stages
    from pipelines.stages.stage import check_stages
    from pipelines.tables.storage import Store

    now, limits = _cluster(found, settings)
    family, store = settings.family(), Store(settings.output, settings.storage_options)
    people, _ = people_stages(settings, family, None, store)
    found.attempt(lambda: check_stages(people, ["unit"], limits))
    stages = picture_stages(settings, family, None, store, None, now, limits)
    check_stages(stages, ["unit"], limits)


def _cluster(found: Checks, settings: RunConfig) -> tuple[dict[str, float], dict[str, float]]:
    """What there is, and what it can grow to."""
    from pipelines.run.session import cluster_limits

    resources = settings.resources
    if settings.address or os.environ.get("RAY_ADDRESS"):
        from pipelines.run.session import ray_session

        with ray_session(settings.address) as cluster:
            now = dict(cluster)
        where = settings.address or os.environ["RAY_ADDRESS"]
    else:
        import torch

        now = {"CPU": float(max(4, os.cpu_count() or 1)), "GPU": float(torch.cuda.device_count())}
        where = "this machine"
    limits = dict(cluster_limits(now, resources, settings.address))
    shown = ", ".join(
        f"{now.get(name, 0):g} {name}s of {'?' if math.isinf(most) else f'{most:g}'}"
        for name, most in limits.items()
    )
    found.say("cluster", f"{where}: {shown} that it can have")
    return now, limits


if __name__ == "__main__":
    typer.run(check)
