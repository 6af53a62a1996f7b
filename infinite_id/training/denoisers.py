"""The stages "base" and "adapter:*": the UNet, then what carries identities into it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from infinite_id.config import preset
from infinite_id.identity.adapter import IdentityAdapter
from infinite_id.pocket import model as pocket
from infinite_id.pocket.weights import Edition
from infinite_id.training.adapter import (
    AdapterBatch,
    AdapterTraining,
    diffusion_loss,
    noisy_and_target,
)
from infinite_id.training.autoencoder import latents_of, load_autoencoder
from infinite_id.training.context import (
    Context,
    Stage,
    load_stage,
    on_device,
)
from infinite_id.training.identity_loss import IdentityLoss, clean_identity_loss, face_embedder
from infinite_id.training.image_text import clip_tokens_of, texts_of
from infinite_id.training.loop_config import LoopConfig
from infinite_id.training.text import tokenize

__all__ = ["build_adapter", "build_base", "build_photomaker", "face_region"]

TEXT_DROP = 0.1
BASE_BATCH = 32
ADAPTER_BATCH = 32
IDENTITY_DROP = 0.05


def build_base(context: Context) -> Stage:
    """The stage "base": the UNet, trained to predict v from noisy latents and captions.

    Latents (B, C, h, w) have zero mean and unit deviation a channel, times are 0 to 999 and
    stratified over the batch, texts are (B, L, D) with pooled (B, P), zeros for a share
    `TEXT_DROP`. The loss is a scalar of 0 or more, near 1 at the start; faces weigh more
    (`face_region`).

    Returns:
        The UNet, all of whose parameters are trained; its loss; how to optimise.

    Raises:
        FileNotFoundError: a stage that it builds on ("vae", "clip") was not trained yet.
    """
    unet = on_device(context, pocket.build_unet(context.size))
    run = context.run(unet)
    latents, _, _ = latents_of(context, context.pictures.images)
    hidden, pooled, rows = texts_of(context, context.pictures.captions)
    alphas = pocket.build_scheduler().alphas_cumprod.to(context.device)
    region = face_region(context.edition, context.device, weight=2.0)
    size = BASE_BATCH * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 1009 + part)
        chosen = torch.randint(len(latents), (size,), generator=generator)
        noise = torch.randn((size, *latents.shape[1:]), generator=generator).to(context.device)
        timesteps = _stratified(size, len(alphas), generator).to(context.device)
        kept = (torch.rand(size, generator=generator) >= TEXT_DROP).to(context.device)
        row, own = rows[chosen].to(hidden.device), chosen.to(latents.device)
        text = hidden[row].to(context.device).float() * kept[:, None, None]
        pool = pooled[row].to(context.device).float() * kept[:, None]
        clean = latents[own].to(context.device).float()
        noisy, target = noisy_and_target(clean, noise, timesteps, alphas, "v_prediction")
        time_ids = _time_ids(context, size)
        predicted = run(
            noisy,
            timesteps,
            encoder_hidden_states=text,
            added_cond_kwargs={"text_embeds": pool, "time_ids": time_ids},
        ).sample
        weights = torch.ones(size, device=context.device)
        return diffusion_loss(predicted, target, weights, region)

    config = LoopConfig(
        # 1e-3 with a second moment of 0.999 lost all after 280,000 pictures, within twenty steps.
        learning_rate=7e-4,
        second_moment=0.99,
        clip_over_mean=2.0,
        warmup_steps=200,
        total_steps=context.total_steps(size),
        ema_decay=0.999,
        precision=context.precision,
    )
    return unet, loss, config


def build_adapter(context: Context, name: str) -> Stage:
    """A stage "adapter:NAME" but PhotoMaker's: an identity adapter on the frozen base.

    Each of the B raw photos comes with ANOTHER photo of its person: face embeddings (B, 128) of
    unit norm and image tokens (B, 65, 192), zeros for a share `IDENTITY_DROP`.

    Args:
        context: data, state folder and device.
        name: "infinite_id" trains without text; "infinite_id_text_trained" and "ip_adapter" with
            it, the latter with face embeddings of zeros.

    Returns:
        An `AdapterTraining` whose adapter alone is trained; its loss, a scalar of 0 or more, with
        `context.identity_weight` times the identity loss where that is above 0; how to optimise.

    Raises:
        FileNotFoundError: a stage that it builds on ("vae", "clip", "base") was not trained yet.
    """
    unet = on_device(context, load_stage(context.state, "base", pocket.build_unet(context.size)))
    adapter = IdentityAdapter(preset("pocket").adapter, unet).to(context.device)
    scheduler = pocket.build_scheduler()
    text_active = name != "infinite_id"
    model = AdapterTraining(
        unet,
        adapter,
        scheduler.alphas_cumprod.to(context.device),
        scheduler.config.prediction_type,
        text_active=text_active,
        region=face_region(context.edition, context.device),
    )
    latents, _, _ = latents_of(context, context.pictures.images)
    photos = torch.from_numpy(context.pictures.lone_photos())
    person = torch.from_numpy(context.pictures.person)
    portrait = torch.from_numpy(context.pictures.portrait)
    faces = torch.from_numpy(context.people.face)
    clip = clip_tokens_of(context, context.people.aligned)
    texts = texts_of(context, context.pictures.captions) if text_active else None
    mistaken = _identity_loss(context)
    size = ADAPTER_BATCH * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 1009 + part + 500_000_000)
        chosen = photos[torch.randint(len(photos), (size,), generator=generator)]
        # Another photo of the same person: identity is learnt, the picture is not copied.
        other = (portrait[chosen] + torch.randint(1, 3, (size,), generator=generator)) % 3
        face = faces[person[chosen], other].to(context.device)
        if name == "ip_adapter":
            face = torch.zeros_like(face)
        text = pooled = None
        if texts is not None:
            row = texts[2][chosen].to(texts[0].device)
            kept = (torch.rand(size, generator=generator) >= TEXT_DROP).to(context.device)
            text = texts[0][row].to(context.device).float() * kept[:, None, None]
            pooled = texts[1][row].to(context.device).float() * kept[:, None]
        batch = AdapterBatch(
            latents=latents[chosen.to(latents.device)].to(context.device).float(),
            face=face,
            clip=clip[person[chosen].to(clip.device), other.to(clip.device)].float(),
            keep=(torch.rand(size, generator=generator) >= IDENTITY_DROP).to(context.device),
            noise=torch.randn((size, *latents.shape[1:]), generator=generator).to(context.device),
            timesteps=_stratified(size, 1000, generator).to(context.device),
            time_ids=_time_ids(context, size),
            text=text,
            pooled=pooled,
        )
        return model(batch, _on_clean(context, mistaken, chosen, batch.keep, generator))

    config = LoopConfig(
        learning_rate=2e-3,
        warmup_steps=50,
        total_steps=context.total_steps(size),
        ema_decay=0.999,
        precision=context.precision,
    )
    return model, loss, config


def _identity_loss(context: Context) -> IdentityLoss | None:
    """`clean_identity_loss` over the frozen autoencoder; None without weight or face network."""
    embed = face_embedder(context.device, context.network) if context.identity_weight else None
    if embed is None:
        return None
    vae = load_autoencoder(context.state, context.size).to(context.device)
    _, mean, deviation = latents_of(context, context.pictures.images)
    mean, deviation = (part.to(context.device).view(1, -1, 1, 1) for part in (mean, deviation))

    def decode(latents: Tensor) -> Tensor:
        return vae.decode(latents * deviation + mean).sample

    faces = torch.from_numpy(context.people.face).to(context.device)
    people = torch.nn.functional.normalize(faces.mean(dim=1), dim=-1)
    return clean_identity_loss(decode, embed, people, context.identity_weight, context.edition)


def _on_clean(
    context: Context,
    mistaken: IdentityLoss | None,
    chosen: Tensor,
    kept: Tensor,
    generator: torch.Generator,
) -> Callable[[Tensor], Tensor] | None:
    """`mistaken` as a function of the clean latents predicted for the pictures `chosen`."""
    if mistaken is None:
        return None
    landmarks = context.pictures.landmarks[chosen.numpy()]
    person = torch.from_numpy(context.pictures.person[chosen.numpy()]).to(context.device)
    return lambda clean: mistaken(clean, kept, landmarks, person, generator)


def build_photomaker(context: Context) -> Stage:
    """The stage "adapter:photomaker": the baseline's encoder and a LoRA on the frozen base.

    Pictures, latents and loss are those of `build_adapter`. Text always takes part; of the identity
    photo only the first image token (B, 192) does, and only in rows whose text was not dropped.

    Returns:
        A `PhotoMakerTraining`; its loss, a scalar of 0 or more; how to optimise.

    Raises:
        FileNotFoundError: a stage that it builds on ("vae", "clip", "base") was not trained yet.
    """
    from infinite_id.training.photomaker import PhotoMakerTraining, class_word_positions

    unet = load_stage(context.state, "base", pocket.build_unet(context.size))
    scheduler = pocket.build_scheduler()
    model = PhotoMakerTraining(
        unet,
        scheduler.alphas_cumprod,
        scheduler.config.prediction_type,
        region=face_region(context.edition, torch.device("cpu")),
    )
    model.to(context.device)
    latents, _, _ = latents_of(context, context.pictures.images)
    photos = torch.from_numpy(context.pictures.lone_photos())
    person = torch.from_numpy(context.pictures.person)
    portrait = torch.from_numpy(context.pictures.portrait)
    clip = clip_tokens_of(context, context.people.aligned)[:, :, 0]
    hidden, pooled, rows = texts_of(context, context.pictures.captions)
    places = class_word_positions(tokenize(context.pictures.captions))
    mistaken = _identity_loss(context)
    size = ADAPTER_BATCH * context.batch_scale

    def loss(step: int, part: int) -> Tensor:
        generator = torch.Generator().manual_seed(step * 1009 + part + 700_000_000)
        chosen = photos[torch.randint(len(photos), (size,), generator=generator)]
        other = (portrait[chosen] + torch.randint(1, 3, (size,), generator=generator)) % 3
        kept = torch.rand(size, generator=generator) >= TEXT_DROP
        noise = torch.randn((size, *latents.shape[1:]), generator=generator)
        timesteps = _stratified(size, 1000, generator)
        row, keep = rows[chosen].to(hidden.device), kept.to(context.device)
        return model(
            latents[chosen.to(latents.device)].to(context.device).float(),
            noise.to(context.device),
            timesteps.to(context.device),
            _time_ids(context, size),
            hidden[row].to(context.device).float() * keep[:, None, None],
            pooled[row].to(context.device).float() * keep[:, None],
            torch.where(kept, places[chosen], -1).to(context.device),
            clip[person[chosen].to(clip.device), other.to(clip.device)].float(),
            _on_clean(context, mistaken, chosen, keep, generator),
        )

    config = LoopConfig(
        learning_rate=2e-3,
        warmup_steps=50,
        total_steps=context.total_steps(size),
        ema_decay=0.999,
        precision=context.precision,
    )
    return model, loss, config


def face_region(edition: Edition, device: torch.device, weight: float = 4.0) -> Tensor:
    """(h, w) with a mean of 1: a latent of the faces' window weighs `weight` times another.

    What prompts name covers most of a picture; the face, which tells people apart, a part.
    """
    side = edition.size // edition.factor
    region = torch.ones(side, side, device=device)
    region[edition.latent_window] = weight
    return region / region.mean()


def _stratified(size: int, count: int, generator: torch.Generator) -> Tensor:
    """int64 (size,): one time of each `size`-th of 0 to `count` - 1."""
    places = (torch.arange(size) + torch.rand(size, generator=generator)) / size
    return (places * count).long().clamp(max=count - 1)


def _time_ids(context: Context, size: int) -> Tensor:
    pixels = float(context.size)
    ids = torch.tensor([[pixels, pixels, 0, 0, pixels, pixels]], device=context.device)
    return ids.expand(size, -1)
