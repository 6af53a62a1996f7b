"""Trains the pocket model: `python -m infinite_id.training.pocket --stage all --minutes 60`.

One resumable program for a laptop and for a GPU, without Ray. Everything it makes lies in
`--state`; run it again with the same folder and it goes on where it was. `--export` writes what
is trained to the package's assets. SIGTERM ends it in good order; nothing is exported then.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError

from infinite_id.packages import PackageFileError
from infinite_id.pocket.weights import EDITIONS
from infinite_id.training.checkpoints import CheckpointError
from infinite_id.training.context import Context
from infinite_id.training.dataset import (
    Pictures,
    load_people,
    load_pictures,
    make_chunks,
    people_chunk,
    people_path,
    photos_chunk,
    picture_chunk,
    pictures_path,
)
from infinite_id.training.loop import Progress
from infinite_id.training.loop_config import Precision
from infinite_id.training.pack import Faces, read_pack, write_pack
from infinite_id.training.workers import join_workers, start_workers, started_rank

__all__ = ["main"]

logger = logging.getLogger(__name__)

# Shares of the minutes; what is left over by a stage that is skipped goes to the others.
SHARES = {"vae": 0.12, "decoder": 0.05, "clip": 0.07, "scorer": 0.05, "base": 0.55}
ADAPTER_SHARE = 0.07


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; 0, 2 after wrong input, 1 where the place or the training failed."""
    # transformers reads this when it is imported, which the stages do: its warning that torchvision
    # is missing is no news here.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    from infinite_id.training.stages import STAGES

    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("--stage", default="all", help=f"all, or several of {', '.join(STAGES)}")
    parser.add_argument("--minutes", type=float, default=60.0, help="of training, all stages")
    parser.add_argument(
        "--budget",
        type=int,
        default=0,
        metavar="PICTURES",
        help="seen by each stage in all; the learning rate decays to its end. 0: it is held",
    )
    parser.add_argument(
        "--size", type=int, default=64, choices=sorted(EDITIONS), help="of pictures in pixels"
    )
    parser.add_argument(
        "--workers", type=int, default=1, help="processes of one thread with averaged gradients"
    )
    parser.add_argument(
        "--compile", action="store_true", help="the base's UNet, with a C++ compiler: minutes once"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda")
    parser.add_argument("--state", type=Path, required=True, help="folder of everything made")
    parser.add_argument(
        "--precision",
        default="auto",
        choices=("auto", "float32", "bfloat16"),
        help="auto: bfloat16 on a GPU and on a CPU with AMX; it pays with AVX512-BF16 too",
    )
    parser.add_argument("--people", type=int, default=30, help="chunks of 100 people")
    parser.add_argument("--pictures", type=int, default=30, help="chunks of 1000 pictures")
    parser.add_argument(
        "--photos", type=Path, help="folder of photos whose people are mixed in, a sub-folder each"
    )
    parser.add_argument(
        "--identity-loss",
        type=float,
        default=0.0,
        metavar="WEIGHT",
        help="of taking a face for a wrong person, added to the loss of adapters; 0: as the paper",
    )
    parser.add_argument("--batch-scale", type=int, default=0, help="0: 1 on a CPU, 16 on a GPU")
    parser.add_argument("--data", type=Path, help="data pack to train on, nothing is made")
    parser.add_argument(
        "--start-from", type=Path, help="export whose weights the state folder begins with"
    )
    parser.add_argument("--pack", type=Path, help="write the data to this file")
    parser.add_argument("--export", type=Path, help="write trained weights to this folder")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    stages = list(STAGES) if options.stage == "all" else options.stage.split(",")
    if not 0 <= options.identity_loss < float("inf"):
        return _refused(f"identity-loss is {options.identity_loss}, allowed: 0 or more")
    if options.workers < 1 or options.budget < 0:
        name, value, least = ("workers", options.workers, 1)
        if options.workers >= 1:
            name, value, least = ("budget", options.budget, 0)
        return _refused(f"{name} is {value}, allowed: {least} or more")
    unknown = [stage for stage in stages if stage and stage not in STAGES]
    if unknown:
        return _refused(f"stage is {unknown[0]!r}, allowed: all, {', '.join(STAGES)}")
    try:
        _run(options, [stage for stage in stages if stage], arguments)
    except (ValueError, FileNotFoundError, CheckpointError, PackageFileError) as error:
        return _refused(error)
    except (OSError, SafetensorError, FloatingPointError) as error:
        sys.stderr.write(f"failed: {error}; checkpoints and weights written before are intact\n")
        return 1
    return 0


def _refused(reason: object) -> int:
    sys.stderr.write(f"error: {reason}\n")
    return 2


def _run(options: argparse.Namespace, stages: list[str], arguments: Sequence[str] | None) -> None:
    rank = started_rank()
    if rank is None and options.pack is not None:
        from infinite_id.training.face_network_file import load_face_network

        size = write_pack(options.pack, *make_data(options), load_face_network())
        logger.info("%d bytes in %s", size, options.pack)
    if rank is None and options.start_from is not None:
        from infinite_id.training.export import restore

        for stage, step in restore(options.start_from, options.state, options.size).items():
            logger.info("%s begins after %d steps", stage, step)
    if options.minutes > 0 and not _train(options, stages, rank, arguments):
        return
    if rank is None and options.export is not None:
        from infinite_id.training.export import export

        export(options.state, options.export, options.size)


def _train(
    options: argparse.Namespace,
    stages: list[str],
    rank: int | None,
    arguments: Sequence[str] | None,
) -> bool:
    """Whether all stages were trained; False: told to stop."""
    from infinite_id.training.stages import train_stage

    device = device_of(options.device)
    if options.workers > 1:
        torch.set_num_threads(1)
    context = make_context(options, device)
    others = []
    if options.workers > 1:
        if rank is None:
            given = list(sys.argv[1:] if arguments is None else arguments)
            others = start_workers(options.workers, ["-m", "infinite_id.training.pocket", *given])
        context = replace(context, workers=join_workers(options.workers))
    shares = {stage: SHARES.get(stage, ADAPTER_SHARE) for stage in stages}
    for stage, share in shares.items():
        seconds = 60 * options.minutes * share / sum(shares.values())
        done = train_stage(context, stage, seconds=seconds)
        logger.info("%s: %d steps done", stage, done)
        stopped = context.should_stop is not None and context.should_stop()
        if stopped if context.workers is None else context.workers.any(stopped):
            logger.info("told to stop; the same command goes on, nothing was exported")
            return False
    for other in others:
        other.wait()
    return True


def device_of(name: str) -> torch.device:
    """The device of that name; "auto" takes a GPU where there is one.

    Raises:
        ValueError: the name is none, or of a device that this machine lacks.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(f"device is {name!r}, allowed: auto, cpu, cuda ({reason})") from None
    return device


def make_context(options: argparse.Namespace, device: torch.device) -> Context:
    """Data and reporting as the options say."""
    cuda = device.type == "cuda"
    network = None
    if options.data:
        people, train, scorer, network = read_pack(options.data)
        if (found := train.images.shape[1]) != options.size:
            raise ValueError(f"data pack has pictures of {found} px, allowed: {options.size}")
    else:
        people, train, scorer = make_data(options)
    logger.info("data ready: %d people, %d pictures", len(people.face), len(train.images))
    precision = precision_of(options.precision, device)
    logger.info("%s on %s", precision, device)
    started = time.time()
    log = options.state / "log.jsonl"

    def report(stage: str, progress: Progress) -> None:
        logger.info(
            "%s step %d loss %.4f, %.2f steps/s, gradient %.3f",
            stage,
            progress.step,
            progress.loss,
            progress.steps_per_second,
            progress.gradient_norm,
        )
        entry = {"stage": stage, "run": started, "time": time.time(), "device": str(device)}
        entry |= {"step": progress.step, "loss": progress.loss}
        with log.open("a") as stream:
            stream.write(json.dumps(entry) + "\n")

    return Context(
        state=options.state,
        device=device,
        precision=precision,
        batch_scale=options.batch_scale or (16 if cuda else 1),
        people=people,
        pictures=train,
        scorer_pictures=scorer,
        report=report,
        should_stop=_told_to_stop(),
        identity_weight=options.identity_loss,
        size=options.size,
        total_pictures=options.budget,
        network=network,
        compiled=options.compile,
    )


def precision_of(wanted: str, device: torch.device) -> Precision:
    """ "float32" or "bfloat16"; "auto" takes the latter on a GPU and on a CPU with AMX."""
    if wanted != "auto":
        return "bfloat16" if wanted == "bfloat16" else "float32"
    known: dict[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()
    return "bfloat16" if device.type == "cuda" or known.get("amx_bf16") else "float32"


def make_data(options: argparse.Namespace) -> tuple[Faces, Pictures, Pictures]:
    """People and pictures from the state folder; what is missing there is made first.

    The scorer's are made where a stage or a pack needs them.
    """
    data, workers = options.state / "data", os.cpu_count() or 1
    photos = None
    if options.photos is not None:
        photos, rejects = photos_chunk(data, options.photos)
        for reason, number in sorted(rejects.items()):
            logger.info("%d photos left out: %s", number, reason)
        joined = load_people(data, 0, "train", photos)
        logger.info("%d people of photos are trained on", len(joined.index))
    size = options.size
    missing = [n for n in range(options.people) if not people_path(data, n, size).exists()]
    make_chunks(people_chunk, [(data, n, size) for n in missing], workers)
    wanted = {"train": options.pictures}
    stages = options.stage.split(",")
    if options.pack is not None or "all" in stages or "scorer" in stages:
        wanted["scorer"] = max(1, options.pictures // 3)
    found = {}
    for split, chunks in wanted.items():
        people = load_people(data, options.people, split, photos, size)
        tasks = [
            (data, people, split, n, size)
            for n in range(chunks)
            if not pictures_path(data, people, split, n, size).exists()
        ]
        make_chunks(picture_chunk, tasks, workers)
        found[split] = (people, load_pictures(data, people, split, chunks, size))
    people, pictures = found["train"]
    scorer = found["scorer"][1] if "scorer" in found else pictures.first(0)
    return Faces.of(people), pictures, scorer


def _told_to_stop() -> Callable[[], bool]:
    """Whether SIGTERM came: machines that are taken away say so shortly before."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda number, frame: told.set())
    return told.is_set


if __name__ == "__main__":
    raise SystemExit(main())
