"""The weights of a run: brought to this machine, found, and named by what they hold."""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from eval.judges.given import GivenJudges
from eval.places import StorageError
from infinite_id.config import PRESETS, EncoderConfig, Preset
from infinite_id.methods import METHODS, check_takes, trained_weights
from infinite_id.model_files.bases import base_files, tower_files
from infinite_id.model_files.controlnets import check_controlnet, controlnet_files
from infinite_id.model_files.files import BASE_PARTS, ModelFiles, model_digest
from infinite_id.model_files.headers import read_header, shapes_of
from infinite_id.packages import cache_folder, file_digest
from infinite_id.weights.places import is_public_adapter, local_file, weights_digest
from pipelines.tables.storage import Store

__all__ = [
    "RunWeights",
    "find_weights",
    "is_public",
    "local_encoders",
    "local_preset",
    "local_weights",
    "run_weights",
]

_OWN = ("hub://",)
# They decide where weights lie and how they are computed with, not what a picture is.
_PLACES = (
    "name", "base", "base_revision", "adapter_path", "base_lora", "weights", "variant",
    "allow_untrained", "compile", "offload", "decode_slice", "cpu_dtype", "controlnet",
    "controlnet_revision",
)  # fmt: skip
_ENCODER_PLACES = ("faces", "clip", "clip_revision")


@dataclass(frozen=True, slots=True)
class RunWeights:
    """What a run's pictures are made with.

    Attributes:
        name: of the base and everything on it, by content.
        untrained: whether the weights of some method are, so that its pictures are noise.
        encoders: of faces and CLIP, by content where they lie in folders.
        revisions: of each method: changes when a picture could change.
    """

    name: str
    untrained: bool
    encoders: str
    revisions: Mapping[str, str]


def run_weights(
    family: Preset, methods: Iterable[str], options: Mapping[str, Any] | None = None
) -> RunWeights:
    """Finds and names the weights of some methods; nothing of them is loaded.

    Args:
        family: model family; addresses of object stores are copied to this machine.
        methods: of METHODS.
        options: of the fsspec file system.

    Raises:
        ValueError: weights that are missing, broken, of another family or of another shape, or
            that nobody trained; one sentence.
    """
    names = list(methods)
    here = local_preset(family, options)
    addresses = find_weights(here, names)
    trained = {
        name: None if one is None else weights_digest(one) for name, one in addresses.items()
    }
    untrained = any(METHODS[name].weights and trained[name] is None for name in names)
    base = _base_name(here) if any(METHODS[name].needs_base for name in names) else "no-base"
    untrained |= base.startswith("untrained")
    found = sorted({digest for digest in trained.values() if digest is not None})
    return RunWeights(
        "+".join([base, *(digest[:12] for digest in found)] + ["untrained"] * untrained),
        untrained,
        _encoder_names(here),
        {name: _revision(name, here, base, trained[name]) for name in names},
    )


def find_weights(family: Preset, methods: Iterable[str]) -> dict[str, str | None]:
    """The address of each method's weights, after everything was found and its headers read.

    Args:
        family: of `local_preset`.
        methods: of METHODS.

    Raises:
        ValueError: as of `run_weights`.
    """
    found: dict[str, str | None] = {}
    for name in methods:
        check_takes(name, details=family.details is not None)
        found[name] = address = trained_weights(METHODS[name], family, is_public)
        if address is not None and "://" not in address and not Path(address).exists():
            raise ValueError(f"weights {address} do not exist")
        if METHODS[name].needs_base and family.base != "pocket":
            files, _ = base_files(family)
            if address is not None and Path(address).suffix == ".safetensors":
                _check_width(address, files)
    if family.controlnet is not None:
        own, _ = controlnet_files(family)
        check_controlnet(own.address, own.json("config.json"), _unet_settings(family))
    if family.base_lora is not None and not Path(family.base_lora).is_file():
        raise ValueError(f"base_lora {family.base_lora} does not exist")
    encoders = family.encoders
    if encoders.clip != "pocket":
        tower_files(encoders.clip, encoders.clip_revision, encoders.clip_width)
    if "/" in encoders.faces and not Path(encoders.faces).expanduser().is_dir():
        raise ValueError(f"face backend folder {encoders.faces} does not exist")
    return found


def _unet_settings(family: Preset) -> Mapping[str, Any]:
    if family.base == "pocket":
        from infinite_id.pocket.weights import UNET

        return UNET
    return base_files(family)[0].json("unet/config.json")


def _check_width(address: str, base: ModelFiles) -> None:
    """Refuses a file that is not whole, or a public adapter for texts of another width; other
    shapes are compared when it is loaded, or by `infinite-id check`."""
    if "://" in address or not Path(address).is_file():
        return
    width = base.json("unet/config.json").get("cross_attention_dim")
    for name, shape in shapes_of(read_header(address)).items():
        if name.endswith("_ip.weight") and shape[-1] != width:
            raise ValueError(
                f"adapter {address} is for texts {shape[-1]} wide, allowed: {width}, as base "
                f"{base.address} has them"
            )


def _revision(method: str, family: Preset, base: str, digest: str | None) -> str:
    settings = {name: value for name, value in asdict(family).items() if name not in _PLACES}
    if family.attention != "sage":
        # It computes in 8 bits; the others give one picture up to rounding.
        del settings["attention"]
    if family.details is None:
        del settings["details"]
    settings["encoders"] = {
        name: value for name, value in settings["encoders"].items() if name not in _ENCODER_PLACES
    }
    what = [method, repr(METHODS[method]), sorted(settings.items()), base, digest]
    return f"{method}-{hashlib.blake2b(repr(what).encode(), digest_size=6).hexdigest()}"


def _base_name(family: Preset) -> str:
    """As `infinite_id.base.BaseModel.held_revision` of a loaded one."""
    if family.base == "pocket":
        from infinite_id.pocket import weights as pocket_weights

        name = pocket_weights.revision()
    else:
        files, variant = base_files(family)
        name = f"sdxl-{model_digest(files, BASE_PARTS, variant)}"
    if family.base_lora is not None:
        name = f"{name}+lora-{file_digest(family.base_lora)[:12]}"
    if family.controlnet is not None:
        name = f"{name}+control-{model_digest(*_of_controlnet(family))}"
    return name


def _of_controlnet(family: Preset) -> tuple[ModelFiles, tuple[str], str | None]:
    files, variant = controlnet_files(family)
    return files, ("",), variant


def _encoder_names(family: Preset) -> str:
    """As far as it can be told here: packs that insightface fetches are known by name."""
    encoders = family.encoders
    faces, clip = encoders.faces, encoders.clip
    if Path(faces).expanduser().is_dir():
        faces = f"pack-{weights_digest(faces)[:12]}"
    if clip != "pocket":
        files = tower_files(clip, encoders.clip_revision, encoders.clip_width)
        clip = f"clip-{model_digest(files, [''], None)}"
    return f"{faces}+{clip}"


def is_public(address: str) -> bool:
    """Whether an adapter is a public one; nobody is asked where its name tells."""
    if address.endswith(".bin") or address in {one.adapter_path for one in PRESETS.values()}:
        return True
    return is_public_adapter(address)


def local_judges(judges: GivenJudges, options: Mapping[str, Any] | None = None) -> GivenJudges:
    """The judges with local paths in place of addresses; an endpoint stays where it is.

    Raises:
        ValueError: a file that cannot be had; names the address.
    """
    found = {}
    for name, address in judges.addresses.items():
        path = address if name == "vlm" else local_weights(address, options)
        found[name] = str(local_file(path)) if path.startswith(_OWN) else path
    return replace(judges, addresses=found)


def local_weights(address: str, options: Mapping[str, Any] | None = None) -> str:
    """A local path of a weights folder or file.

    Args:
        address: a path or hub id, which comes back as it is but for a `~` at its start, or an
            fsspec address.
        options: of file systems by scheme.

    Raises:
        StorageError: the address cannot be read, or there is no space for it here.
    """
    if address.startswith("~/"):
        return str(Path(address).expanduser())
    if "://" not in address or address.startswith(_OWN):
        return address
    store = Store(address, options)
    if not store.exists():
        raise StorageError(f"weights {address} do not exist")
    if store.is_local:
        return store.path()
    name = hashlib.sha256(repr(_listing(store)).encode()).hexdigest()[:16]
    target = cache_folder() / "weights" / f"{name}-{store.root.rsplit('/', 1)[-1]}"
    if target.exists():
        return str(target)
    target.parent.mkdir(parents=True, exist_ok=True)
    needed = sum(size for _, size, _ in _listing(store))
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise StorageError(
            f"weights {address} have {needed:,} bytes, the cache {target.parent} has {free:,} "
            "free; INFINITE_ID_CACHE names another place"
        )
    copy = Path(tempfile.mkdtemp(prefix=".copying-", dir=target.parent))
    try:
        inside = copy / "content"
        # Lists, because a single path is taken for a pattern.
        files = [store.root] if store.is_file() else sorted(store.fs.find(store.root))
        copies = [Path(f"{inside}{name.removeprefix(store.root)}") for name in files]
        for folder in {one.parent for one in copies}:
            folder.mkdir(parents=True, exist_ok=True)
        store.fs.get(files, [str(one) for one in copies])
        try:
            os.rename(inside, target)  # noqa: PTH104 -- must fail where another copy was faster
        except OSError:
            if not target.exists():
                raise
    except (OSError, FileNotFoundError) as error:
        raise StorageError(f"cannot copy weights {address}: {error}") from error
    finally:
        shutil.rmtree(copy, ignore_errors=True)
    return str(target)


def _listing(store: Store) -> list[tuple[str, int, str]]:
    """(name, bytes, what changes with the content) of every file; of a store that names no
    content, the time of change."""
    store.fs.invalidate_cache()
    found = (
        {store.root: store.fs.info(store.root)}
        if store.is_file()
        else store.fs.find(store.root, detail=True)
    )
    return sorted(
        (
            f"{store.url.split('://')[0]}://{name}",
            int(info.get("size") or 0),
            str(next((info[k] for k in _CONTENT if info.get(k)), "")),
        )
        for name, info in found.items()
    )


_CONTENT = ("ETag", "etag", "md5Hash", "content_md5", "LastModified", "mtime", "created")


def local_preset(family: Preset, options: Mapping[str, Any] | None = None) -> Preset:
    """`family` with everything that lies on an object store on this machine."""

    def here(address: str) -> str:
        return local_weights(address, options)

    def maybe(address: str | None) -> str | None:
        return None if address is None else here(address)

    return replace(
        family,
        base=here(family.base),
        adapter_path=maybe(family.adapter_path),
        base_lora=maybe(family.base_lora),
        controlnet=maybe(family.controlnet),
        weights=tuple((name, here(address)) for name, address in family.weights),
        encoders=local_encoders(family.encoders, options),
    )


def local_encoders(
    encoders: EncoderConfig, options: Mapping[str, Any] | None = None
) -> EncoderConfig:
    """`encoders` with what lies on an object store on this machine."""
    return replace(
        encoders,
        faces=local_weights(encoders.faces, options),
        clip=local_weights(encoders.clip, options),
    )
