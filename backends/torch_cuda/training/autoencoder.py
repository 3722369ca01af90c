"""Training of the image autoencoder: reconstruction, perceptual and adversarial loss, a light KL.

Source: Rombach et al. 2022 (latent diffusion) and Esser et al. 2021 (patch discriminator with a
weight that follows the gradients); the perceptual network is ours (see judge.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from backends.torch_cuda.training import judge as judging
from backends.torch_cuda.training.clock import Stage
from backends.torch_cuda.training.network import (
    Average,
    Network,
    adamw,
    compile_calls,
    set_rate,
    use_channels_last,
)
from backends.torch_cuda.training.scenes import SceneSource
from flux_core.catalog import AutoencoderConfig
from flux_core.models.autoencoder import Decoder, Encoder


@dataclass(frozen=True, slots=True)
class AutoencoderTraining:
    """Numbers of the run; weights are relative to the L1 loss of pixels in [-1, 1]."""

    batch_size: int = 64
    crop_px: int = 128
    lr: float = 6e-4
    kl_weight: float = 3e-4
    perceptual_weight: float = 0.15
    adversarial_weight: float = 0.05  # of the reconstruction gradient at the last layer
    adversarial_from: float = 0.6  # fraction of the run
    whole_from: float = 0.45  # fraction of the run; then whole pictures, so that norms see true statistics
    photo_share: float = 0.15


class AutoencoderNets(NamedTuple):
    """Encoder and decoder as trained; moments are not normalised yet."""

    encoder: Network[Encoder]
    decoder: Network[Decoder]

    def state(self) -> dict[str, Tensor]:
        return {**self.encoder.state(), **self.decoder.state()}

    def load(self, state: dict[str, Tensor]) -> None:
        self.encoder.load(state)
        self.decoder.load(state)

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        return {**self.encoder.parameters, **self.decoder.parameters}


def build(config: AutoencoderConfig, device: torch.device, is_compiled: bool) -> AutoencoderNets:
    """Fresh nets; convolution weights in channels_last, which is the layout they are used in."""
    nets = AutoencoderNets(
        Network(lambda ops, make: Encoder(ops, make, config), device),
        Network(lambda ops, make: Decoder(ops, make, config), device),
    )
    use_channels_last(nets.parameters.values())
    if is_compiled:
        for half in (nets.encoder.model.down, nets.decoder.model.up):
            for index, (blocks, resample) in enumerate(half):
                holder = _Blocks(blocks)
                compile_calls([holder], "blocks")
                half[index] = (holder.blocks, resample)
        compile_calls([_Middle(nets.encoder.model), _Middle(nets.decoder.model)], "mid")
    return nets


class _Blocks:
    def __init__(self, blocks: list[Any]) -> None:
        self.blocks = blocks


class _Middle:
    """Lets `compile_calls` treat the middle as a list of one."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    @property
    def mid(self) -> list[Any]:
        return [self._owner.mid]

    @mid.setter
    def mid(self, value: list[Any]) -> None:
        self._owner.mid = value[0]


class PatchDiscriminator(nn.Module):
    """Real or made, judged patch by patch (Isola et al. 2017, three strided layers)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.Conv2d(3, width, 4, 2, 1), nn.LeakyReLU(0.2)]
        for out in (2 * width, 4 * width):
            layers += [nn.Conv2d(out // 2, out, 4, 2, 1), nn.GroupNorm(8, out), nn.LeakyReLU(0.2)]
        self.body = nn.Sequential(*layers, nn.Conv2d(4 * width, 1, 3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return self.body(x)


def train(
    nets: AutoencoderNets,
    source: SceneSource,
    judge: judging.Judge,
    numbers: AutoencoderTraining,
    stage: Stage,
) -> None:
    """Trains in place for as long as the stage lasts; ends with the averaged weights."""
    device = source.device
    parameters = nets.parameters
    optimiser = adamw(parameters, numbers.lr, beta2=0.98, decay=0.0)
    average = Average(parameters.values())
    discriminator = PatchDiscriminator().to(device)
    use_channels_last(discriminator.parameters())
    critic = torch.optim.AdamW(
        discriminator.parameters(), lr=2e-4, betas=(0.5, 0.99), weight_decay=0.0, fused=device.type == "cuda"
    )
    judge.eval().requires_grad_(False)
    last_layer = nets.decoder.parameters["decoder.conv_out.weight"]

    for step in stage.steps():
        lr = numbers.lr * min(1.0, (step + 1) / 200) * max(0.02, math.cos(stage.fraction * math.pi / 2))
        set_rate(optimiser, lr)
        is_whole = stage.fraction > numbers.whole_from
        count, side_px = (numbers.batch_size // 4, 256) if is_whole else (numbers.batch_size, numbers.crop_px)
        x = source.crops(count, side_px, numbers.photo_share) * 2 - 1  # [B, h, w, 3]
        with source.amp():
            moments = nets.encoder.model.moments(x)
        mean, logvar = moments.float().chunk(2, dim=-1)
        logvar = logvar.clamp(-12.0, 4.0)
        z = mean + torch.randn_like(mean) * (0.5 * logvar).exp()
        with source.amp():
            y = nets.decoder.model.raw(z)
        y = y.float()
        reconstruction = reconstruction_loss(y - x)
        with source.amp():
            image, made = x.permute(0, 3, 1, 2), y.permute(0, 3, 1, 2)
            seen = judging.perceptual(judge, made, image).float()
        kl = 0.5 * (mean.pow(2) + logvar.exp() - 1 - logvar).mean()
        total = reconstruction + numbers.perceptual_weight * seen
        adversarial = y.new_zeros(())
        is_adversarial = stage.fraction > numbers.adversarial_from
        if is_adversarial:
            with source.amp():
                adversarial = -discriminator(made).float().mean()
            weight = _balance(total, adversarial, last_layer) * numbers.adversarial_weight
            total = total + weight * adversarial
        total = total + numbers.kl_weight * kl
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        nn.utils.clip_grad_norm_(list(parameters.values()), 1.0)
        optimiser.step()
        average.update(step, 0.998)
        if is_adversarial or stage.fraction > numbers.adversarial_from - 0.05:
            with source.amp():
                real = discriminator(image.detach()).float()
                fake = discriminator(made.detach()).float()
            hinge = functional.relu(1 - real).mean() + functional.relu(1 + fake).mean()
            critic.zero_grad(set_to_none=True)
            hinge.backward()
            critic.step()
        stage.log(step, reconstruction=reconstruction, perceptual=seen, kl=kl, adversarial=adversarial, lr=lr)
    average.swap()


def reconstruction_loss(error: Tensor) -> Tensor:
    """Of errors [B, H, W, 3] of pictures in [-1, 1]: their L1, that of image gradients and that of 4x4 and
    16x16 means (flat areas keep their tone), and a little MSE.
    """
    edges = (error[:, :, 1:] - error[:, :, :-1]).abs().mean() + (error[:, 1:] - error[:, :-1]).abs().mean()
    small = functional.avg_pool2d(error.permute(0, 3, 1, 2), 4)
    tone = small.abs().mean() + functional.avg_pool2d(small, 4).abs().mean()
    return error.abs().mean() + edges + tone + 0.5 * error.pow(2).mean()


def _balance(reconstruction: Tensor, adversarial: Tensor, layer: Tensor) -> Tensor:
    """Ratio of gradient norms at the last layer (Esser et al. 2021, equation 7)."""
    (a,) = torch.autograd.grad(reconstruction, layer, retain_graph=True)
    (b,) = torch.autograd.grad(adversarial, layer, retain_graph=True)
    return (a.norm() / (b.norm() + 1e-6)).clamp(0.0, 1e4).detach()


@torch.no_grad()
def encode(nets: AutoencoderNets, images: Tensor, amp: Any, chunk: int = 256) -> Tensor:
    """Images [B, H, W, 3] in [0, 1] -> means [B, H/8, W/8, 16], not normalised; chunks of a fixed size."""
    out: list[Tensor] = []
    for part in images.split(chunk):
        with amp():
            moments = nets.encoder.model.moments(part * 2 - 1)
        out.append(moments.float().chunk(2, dim=-1)[0])
    return torch.cat(out)


@torch.no_grad()
def decode(nets: AutoencoderNets, z: Tensor, amp: Any, chunk: int = 64) -> Tensor:
    """Means, not normalised -> images [B, H, W, 3] in [0, 1]."""
    out: list[Tensor] = []
    for part in z.split(chunk):
        with amp():
            out.append(nets.decoder.model.raw(part).float())
    return (torch.cat(out) / 2 + 0.5).clamp(0, 1)


@torch.no_grad()
def statistics(z: Tensor, images: Tensor) -> dict[str, Any]:
    """What the rest of the system needs to know of the latents.

    Args:
        z: [B, h, w, 16] means of many scenes.
        images: [B, 8h, 8w, 3] the scenes, in [0, 1].

    Returns:
        shift and scale that normalise latents to mean 0 and deviation 1, and `latent_to_rgb`: 17 rows
        of 3, the least-squares linear map from normalised latents (and 1) to 8x8 means in [-1, 1].
    """
    shift = round(z.mean().item(), 4)
    scale = round(1.0 / z.std().item(), 4)
    normalised = ((z - shift) * scale).reshape(-1, z.shape[-1]).double()
    small = functional.avg_pool2d(images.permute(0, 3, 1, 2), 8).permute(0, 2, 3, 1).reshape(-1, 3).double()
    design = torch.cat([normalised, torch.ones_like(normalised[:, :1])], dim=1)
    solution = torch.linalg.lstsq(design, small * 2 - 1).solution  # [17, 3]
    return {"shift": shift, "scale": scale, "latent_to_rgb": solution.cpu().tolist()}


def psnr(a: Tensor, b: Tensor) -> float:
    """Mean over pictures of the peak signal to noise ratio in dB; pictures in [0, 1]."""
    return (-10 * (a - b).pow(2).flatten(1).mean(1).clamp_min(1e-10).log10()).mean().item()
