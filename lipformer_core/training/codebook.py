"""Stage 1 (Figure 2a): Enc, C_U, C_B and Dec learn to reconstruct faces."""

from pathlib import Path

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor, nn

from .. import checkpoint
from ..config import Config
from ..data.clips import PreparedCorpus
from ..model.autoencoder import FaceAutoencoder
from ..model.codebook import kmeans, perplexity, usage
from ..model.discriminator import PatchDiscriminator, adaptive_weight, discriminator_loss, generator_loss
from .loop import finished, run_stage
from .losses import mouth_pixels, perceptual_loss, reconstruction_loss
from .sampling import FrameSampler, augment_colour, step_rng, to_tensor

REVIVE_EVERY = 100  # steps over which a code must have been used
REVIVE_UNTIL = 0.8  # share of the steps; later the codes settle
KMEANS_IMAGES = 384


def train_codebook(config: Config, data: Path | str, run: Path | str, progress: bool = True) -> FaceAutoencoder:
    """Train stage 1 on a prepared corpus into `run`/codebook; resumes, and returns at once if it is finished.

    raises DataError for a bad corpus, CheckpointError if the folder was trained with other settings or data,
        WeightsMissing if the perceptual loss's file is not present
    """
    corpus, folder = PreparedCorpus(data), Path(run) / "codebook"
    if not finished(folder, config, corpus.hash):
        torch.manual_seed(config.seed)
        CodebookTraining(config, corpus).run(folder, progress)
    return checkpoint.load_codebook(run)


class CodebookTraining:
    """The state and the step of stage 1."""

    def __init__(self, config: Config, corpus: PreparedCorpus):
        self.config, self.corpus = config, corpus
        self.accelerator = Accelerator()
        self.device = self.accelerator.device
        self.autoencoder = FaceAutoencoder(config).to(memory_format=torch.channels_last)
        self.train, self.val = FrameSampler(corpus, "train", config), FrameSampler(corpus, "val", config)
        betas = (0.5, 0.9) if config.adversarial_weight else (0.9, 0.95)
        optimisers = [torch.optim.Adam(self.autoencoder.parameters(), lr=config.stage1_lr, betas=betas)]
        self.discriminator = None
        if config.adversarial_weight:
            discriminator = PatchDiscriminator(config.discriminator_width)
            optimisers.append(torch.optim.Adam(discriminator.parameters(), lr=config.stage1_lr, betas=betas))
            self.discriminator = self.accelerator.prepare(discriminator)
        self.model = self.accelerator.prepare(self.autoencoder)
        self.optimisers = [self.accelerator.prepare(o) for o in optimisers]
        self.perceptual = perceptual_loss(config, config.perceptual_weight)
        if self.perceptual is not None:
            self.perceptual.to(self.device)
        self.mouth = mouth_pixels(config.crop_size).to(self.device)
        self.warmup = round(config.codebook_warmup * config.stage1_steps)
        self.counts = [torch.zeros(config.codebook_size, device=self.device) for _ in range(2)]

    def run(self, folder: Path, progress: bool) -> None:
        """Train to the end; `folder` then holds the best weights."""
        stage = nn.ModuleDict({"autoencoder": self.autoencoder})
        if self.discriminator is not None:
            stage["discriminator"] = self.accelerator.unwrap_model(self.discriminator)
        run_stage(
            folder,
            config=self.config,
            data_hash=self.corpus.hash,
            accelerator=self.accelerator,
            model=stage,
            optimisers=self.optimisers,
            steps=self.config.stage1_steps,
            material=self.material,
            step=self.step,
            evaluate=lambda: evaluate_codebook(self.autoencoder, self.val, self.config.eval_images),
            score="val_psnr",
            progress=progress,
        )

    def material(self, number: int) -> tuple[np.ndarray, np.ndarray]:
        """The frames of one step, uint8 (B, S, S, 3), and which of them are mirrored, bool (B,)."""
        rng = step_rng(self.config, number, self.accelerator.process_index)
        pixels = self.train.pixels(self.train.draw(rng, self.config.stage1_batch))
        mirrored = rng.random(len(pixels)) < 0.5 if self.config.augment_mirror else np.zeros(len(pixels), bool)
        return pixels, mirrored

    def batch(self, pixels: np.ndarray, mirrored: np.ndarray) -> Tensor:
        """`material`'s frames, augmented: (B, 3, S, S)."""
        images = to_tensor(pixels)
        images = torch.where(torch.from_numpy(mirrored)[:, None, None, None], images.flip(-1), images)
        images = augment_colour(images, self.config.augment_colour)
        return images.contiguous(memory_format=torch.channels_last).to(self.device)

    def step(self, number: int, material: tuple[np.ndarray, np.ndarray]) -> dict[str, Tensor]:
        """One optimisation step of the autoencoder and, once started, of the discriminator."""
        config = self.config
        quantise = number >= self.warmup
        if number == self.warmup and config.codebook_init == "kmeans":
            self.initialise_codes()
        image = self.batch(*material)
        out = self.model(image, quantise=quantise)
        reconstruction = out["reconstruction"]
        pixel = reconstruction_loss(reconstruction, image, config.mouth_weight, self.mouth)
        logged = {"l1": pixel.detach(), "vq": out["vq_loss"].detach()}
        loss = config.l1_weight * pixel
        if self.perceptual is not None:
            perceptual = self.perceptual(reconstruction, image)
            logged["perceptual"] = perceptual.detach()
            loss = loss + config.perceptual_weight * perceptual
        adversarial = self.discriminator is not None and number >= config.adversarial_start
        if adversarial:
            fooled = generator_loss(self.discriminator(reconstruction))
            last = self.autoencoder.decoder.last_layer.weight
            loss = loss + config.adversarial_weight * adaptive_weight(loss, fooled, last) * fooled
        loss = loss + config.vq_weight * out["vq_loss"]
        self.optimisers[0].zero_grad()
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.autoencoder.parameters(), config.grad_clip)
        self.optimisers[0].step()
        if adversarial:
            judged = discriminator_loss(self.discriminator(image), self.discriminator(reconstruction.detach()))
            self.optimisers[1].zero_grad()
            self.accelerator.backward(judged)
            self.optimisers[1].step()
            logged["discriminator"] = judged.detach()
        if quantise and config.revive_dead_codes:
            self.revive(number, out)
        return logged

    @torch.no_grad()
    def initialise_codes(self) -> None:
        """Both codebooks by k-means over the encodings of training faces."""
        rng = step_rng(self.config, self.config.stage1_steps)  # the same faces on every process
        pairs = self.train.draw(rng, KMEANS_IMAGES)
        encodings = [
            self.autoencoder.encode(self.train.images(pairs[i : i + 32]).to(self.device))
            for i in range(0, KMEANS_IMAGES, 32)
        ]
        generator = torch.Generator().manual_seed(self.config.seed)
        for half, codebook in enumerate((self.autoencoder.upper_codebook, self.autoencoder.bottom_codebook)):
            tokens = torch.cat([e[half].movedim(1, -1).flatten(0, 2) for e in encodings])
            codebook.set_codes(kmeans(tokens, codebook.size, generator))

    @torch.no_grad()
    def revive(self, number: int, out: dict[str, Tensor]) -> None:
        """Count the codes in use; every REVIVE_EVERY steps move the unused ones onto encodings of this batch."""
        for counts, half in zip(self.counts, ("upper", "bottom"), strict=True):
            used = torch.bincount(out[f"{half}_indices"].flatten(), minlength=len(counts)).to(counts)
            counts += self.accelerator.reduce(used, reduction="sum")
        since = number - self.warmup + 1
        if since % REVIVE_EVERY or number > REVIVE_UNTIL * self.config.stage1_steps:
            return
        generator = torch.Generator().manual_seed(self.config.seed + number)
        for counts, half in zip(self.counts, ("upper", "bottom"), strict=True):
            getattr(self.autoencoder, f"{half}_codebook").revive(counts, out[half], generator)
            counts.zero_()


@torch.no_grad()
def evaluate_codebook(
    autoencoder: FaceAutoencoder, sampler: FrameSampler, images: int, batch: int = 32
) -> dict[str, float]:
    """PSNR, and usage and perplexity of both codebooks, on fixed frames of the sampler's split."""
    was_training = autoencoder.training
    autoencoder.eval()
    device = next(autoencoder.parameters()).device
    counts = [torch.zeros(autoencoder.config.codebook_size) for _ in range(2)]
    mouth = mouth_pixels(autoencoder.config.crop_size).to(device)
    errors, mouth_errors = [], []
    pairs = sampler.fixed(images)
    for first in range(0, len(pairs), batch):
        image = sampler.images(pairs[first : first + batch]).to(device)
        out = autoencoder(image)
        square = ((out["reconstruction"].clamp(-1, 1) - image) / 2).double().square()
        errors.append(square.mean((1, 2, 3)))
        mouth_errors.append((square * mouth).sum((1, 2, 3)) / (3 * mouth.sum()))
        for count, half in zip(counts, ("upper", "bottom"), strict=True):
            count += torch.bincount(out[f"{half}_indices"].flatten().cpu(), minlength=len(count))
    autoencoder.train(was_training)
    psnr = lambda parts: float((-10 * torch.log10(torch.cat(parts).clamp(min=1e-10))).mean())  # noqa: E731
    return {
        "val_psnr": psnr(errors),
        "val_mouth_psnr": psnr(mouth_errors),
        "upper_usage": usage(counts[0]),
        "bottom_usage": usage(counts[1]),
        "upper_perplexity": perplexity(counts[0]),
        "bottom_perplexity": perplexity(counts[1]),
    }
