"""What `infinite-id check` knows of a model, from names and headers: nothing is loaded."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from infinite_id.attention.installed import check_attention
from pipelines.run.session import on_this_machine
from pipelines.settings import ModelConfig, RunConfig

__all__ = ["Checks", "check_model"]

T = TypeVar("T")


class Checks:
    """What was found, and the sentences of what is wrong."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str]] = []
        self.faults: list[str] = []

    def say(self, what: str, found: object) -> None:
        """A line of what was found."""
        self.rows.append((what, str(found)))

    def attempt(self, call: Callable[[], T]) -> T | None:
        """What `call` gives; None where it raises a user's mistake, which is kept."""
        from pipelines.run.failures import is_mistake, root_cause

        try:
            return call()
        except Exception as error:
            cause = root_cause(error)
            if not is_mistake(cause):
                raise
            sentence = str(cause)
            if sentence not in self.faults:
                self.faults.append(sentence)
            return None


def check_model(found: Checks, settings: ModelConfig, photos: int) -> None:
    """Weights, licences, kernels, memory and the face network.

    Args:
        found: takes what is found.
        settings: of any command.
        photos: of each person, 1 or more.
    """
    from infinite_id.preset_files import preset_files
    from pipelines.plan.weights import local_preset

    family = settings.family()
    for part in preset_files(family):
        said = ", as its publisher states it" if part.size not in ("-", "unknown") else ""
        said = "" if part.checked else said
        found.say(part.part, f"{part.address}; {part.size}; licence: {part.licence}{said}")
    here = found.attempt(lambda: local_preset(family, settings.storage_options))
    if here is None:
        return
    methods = getattr(settings, "methods", None) or getattr(settings, "method_names", None)
    names = list(methods or ["text_only"])
    if isinstance(settings, RunConfig) and on_this_machine(settings.address):
        found.attempt(lambda: check_attention(here.attention))
    _check_weights(found, here, names, settings, photos)
    found.attempt(lambda: _check_encoders(found, here))


def _check_weights(
    found: Checks, here: Any, names: list[str], settings: ModelConfig, photos: int
) -> None:
    from infinite_id.attention.processors import cross_attention_layers
    from infinite_id.methods import METHODS
    from infinite_id.model_files.bases import base_files
    from infinite_id.weights.shapes import adapter_parameters, base_unet
    from pipelines.plan.fit import NOT_CHECKED, adapter_address
    from pipelines.plan.memory import actor_memory, self_attention_numbers
    from pipelines.plan.weights import find_weights

    # Each by itself, so that all that lack weights are told.
    looked = {name: found.attempt(partial(find_weights, here, [name])) for name in names}
    fitting = [name for name in names if looked[name] is not None]
    if not any(METHODS[name].needs_base for name in names):
        return
    unet = found.attempt(lambda: base_unet(here))
    if unet is None:
        return
    parameters = {"unet": sum(p.numel() for p in unet.parameters())}
    if here.base != "pocket":
        parameters |= found.attempt(lambda: _other_parameters(here)) or {}
    if here.controlnet is not None:
        parameters |= found.attempt(lambda: _controlnet_parameters(here)) or {}
    for name in fitting:
        address = found.attempt(partial(adapter_address, name, here))
        if address is not None and address not in parameters:
            before = len(found.faults)
            count = found.attempt(partial(adapter_parameters, address, here, unet))
            if count is None and len(found.faults) == before:
                found.say("not checked", NOT_CHECKED % address)
            parameters[address] = count or 0
    if here.base == "pocket":
        return
    widths = [unet.get_submodule(one).to_k.out_features for one in cross_attention_layers(unet)]
    batch = getattr(settings, "batch_size", getattr(settings, "max_batch", 1))
    kept = 0
    if here.sampler.text_every > 1:
        halvings = len(base_files(here)[0].json("vae/config.json")["block_out_channels"]) - 1
        kept = self_attention_numbers(unet, here.height >> halvings, here.width >> halvings)
    needed = actor_memory(
        here,
        parameters=parameters.values(),
        widths=widths,
        batch=batch,
        photos=photos,
        kept_numbers=kept,
    )
    kept_text = f", kept K and V of the texts at most {needed.text:.1f}" if kept else ""
    found.say("parameters", f"{sum(parameters.values()):,}, of the UNet {parameters['unet']:,}")
    found.say(
        "GPU memory",
        f"of an actor at {here.width} x {here.height} px, batch {batch}: {needed.most:.1f} GB and "
        f"the UNet's activations; weights {needed.weights:.1f}, K' and V' of {photos} photos each "
        f"{needed.identities:.2f}{kept_text}, VAE {needed.decode:.1f}",
    )


def _other_parameters(here: Any) -> dict[str, int]:
    from infinite_id.model_files.bases import base_files
    from infinite_id.model_files.files import BASE_PARTS, weight_files
    from infinite_id.model_files.headers import parameters_of, read_header

    files, variant = base_files(here)
    if files.folder is None:
        return {}
    return {
        part: sum(
            parameters_of(read_header(files.folder / name))
            for name in weight_files(files, part, variant)
        )
        for part in BASE_PARTS
        if part != "unet"
    }


def _controlnet_parameters(here: Any) -> dict[str, int]:
    from infinite_id.model_files.controlnets import controlnet_files
    from infinite_id.model_files.files import weight_files
    from infinite_id.model_files.headers import parameters_of, read_header

    files, variant = controlnet_files(here)
    if files.folder is None:
        return {}
    headers = [read_header(files.folder / name) for name in weight_files(files, "", variant)]
    return {"controlnet": sum(parameters_of(one) for one in headers)}


def _check_encoders(found: Checks, here: Any) -> None:
    from pipelines.plan.fit import face_network

    faces = here.encoders.faces
    backend = face_network(here)
    absent = f"{faces}: not on this machine, insightface fetches it"
    found.say("faces by", absent if backend is None else backend.revision)
