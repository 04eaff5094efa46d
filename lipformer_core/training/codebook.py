"""Stage 1 (Figure 2a): Enc, C_U, C_B and Dec learn to reconstruct faces."""

import math
from pathlib import Path

import torch
from accelerate.utils import broadcast
from torch import Tensor, nn

from .. import checkpoint
from ..config import Config
from ..data.prepared.clips import Data, PreparedCorpus, open_corpus
from ..errors import ConfigError
from ..model.autoencoder import FaceAutoencoder, split_halves
from ..model.codebook import kmeans, perplexity, usage
from ..model.regions import mouth_pixels
from .looks import Looks, draw_looks
from .loop import finished, run_stage
from .losses import perceptual_loss, random_windows, reconstruction_loss
from .sampling import FrameSampler, sample_rng
from .stage import Stage, describe_frames

REVIVE_EVERY = 100  # steps over which a code must have been used
REVIVE_UNTIL = 0.8  # share of the steps; later the codes settle
WARMUP = 0.15  # share of the steps that run unquantised, before k-means places the codes
ADVERSARIAL_FROM = 2 / 3  # of the steps; from then on Dec learns alone
ADVERSARIAL_RAMP = 0.1  # share of these steps over which the weight grows: a discriminator begins with knowing nothing
SHARPENED = 1000.0  # above every PSNR
KMEANS_IMAGES = 384
EVAL_IMAGES = 160  # of the validation split
WINDOW = 128  # pixels; side of the windows that the perceptual and the adversarial loss see
HALVES = ("upper", "bottom")


def train_codebook(
    config: Config, data: Data, run: Path | str, progress: bool = True, start: Path | str | None = None
) -> FaceAutoencoder:
    """Train stage 1 on one or several prepared corpora into `run`/codebook; resumes, or returns at once if finished.

    With an adversarial loss, the last third of the steps trains Dec alone, over codes that stay, and the newest weights
    are kept: no figure of validation sees what that loss is there for.

    start : a run whose trained autoencoder, of the same architecture, is gone on from: with the decoder that stage 2
        has fine-tuned, where it has. With an adversarial loss all steps are of its kind: what stage 2 learned over the
        earlier run's codes stays true
    raises DataError for a bad corpus, CheckpointError if the folder was trained with other settings or data,
        WeightsMissing if the perceptual loss's file is not present
    """
    corpus, folder = open_corpus(data), Path(run) / "codebook"
    if not finished(folder, config, corpus.hash):
        torch.manual_seed(config.seed)
        stage = CodebookStage(config, corpus)
        if start is not None:
            earlier = checkpoint.load_autoencoder(start)
            checkpoint.fill(stage.autoencoder, earlier)
            stage.start, stage.warmup, stage.placed = checkpoint.fingerprint(earlier), 0, True
            if config.stage1.adversarial_weight:
                stage.sharpen_from = 0
        run_stage(folder, stage, corpus.hash, progress)
    return checkpoint.load_codebook(run)


class CodebookStage(Stage):
    """The state and the step of stage 1."""

    score = "val_psnr"

    def __init__(self, config: Config, corpus: PreparedCorpus):
        super().__init__(config)
        settings, size = config.stage1, config.data.size
        self.settings, self.steps = settings, settings.steps
        tokens = KMEANS_IMAGES * math.prod(config.token_grid)
        if settings.prevent_collapse and config.codebook.size > tokens:
            raise ConfigError(f"codebook.size: {config.codebook.size} codes from k-means over {tokens} tokens")
        self.autoencoder = FaceAutoencoder(config).to(memory_format=torch.channels_last)
        self.train, self.val = FrameSampler(corpus, "train"), FrameSampler(corpus, "val")
        # how often each code was chosen since the unused ones were moved; a state's part, so that resuming is exact
        used = nn.ParameterDict({half: nn.Parameter(torch.zeros(config.codebook.size), False) for half in HALVES})
        self.model = nn.ModuleDict({"autoencoder": self.autoencoder, "used": used})
        betas = (0.9, 0.95)
        trained = [p for p in self.autoencoder.parameters() if p.requires_grad]
        optimisers = [torch.optim.Adam(trained, lr=settings.lr, betas=betas, fused=self.fused)]
        self.wrapped = [self.wrap(self.autoencoder)]
        if settings.adversarial_weight:
            optimisers.append(self.add_discriminator(settings.lr, min(64, config.codebook.widths[-1] // 4)))
            self.model["discriminator"] = self.discriminator
        self.model.to(self.device)
        self.optimisers = [self.accelerator.prepare(o) for o in optimisers]
        self.perceptual = perceptual_loss(settings.perceptual, settings.perceptual_weight)
        if self.perceptual is not None:
            self.perceptual.to(self.device)
            self.score = "val_likeness"
        if settings.adversarial_weight:
            self.score = "val_score"
        self.mouth = mouth_pixels(size).to(self.device)
        self.warmup = round(WARMUP * settings.steps) if settings.prevent_collapse else 0
        self.train.keep(self.device)
        self.placed = False  # whether the codes come from an earlier training
        # the step from which on Dec alone learns, with the adversarial loss
        self.sharpen_from = round(ADVERSARIAL_FROM * self.steps) if settings.adversarial_weight else self.steps
        self.sharpened = 0  # steps
        self.tallies: list = []  # of this step's batches
        self.encodings: dict[str, Tensor] = {}  # of the last batch

    def material(self, number: int) -> tuple[str, Tensor, Looks]:
        """The names of a batch's frames, what `FrameSampler.pictures` needs of them, and how they shall look."""
        count = self.settings.batch
        key, first = (self.config.seed, number), self.accelerator.process_index * count
        pairs = self.train.draw(key, count, first)
        looks = draw_looks([sample_rng(key, first + i, use=1) for i in range(count)], self.settings)
        return describe_frames(pairs), self.train.material(pairs), looks

    def describe(self, material: tuple[str, Tensor, Looks]) -> str:
        return material[0]

    def before(self, number: int) -> None:
        if number == self.warmup and self.settings.prevent_collapse and not self.placed:
            self.initialise_codes()
        if number >= self.sharpen_from:
            self.autoencoder.requires_grad_(False).decoder.requires_grad_(True)
        self.tallies = []

    def losses(self, number: int, material: tuple[str, Tensor, Looks]) -> tuple[list, dict[str, Tensor]]:
        """Losses of the autoencoder and, once it has started, of the discriminator."""
        settings, quantise = self.settings, number >= self.warmup
        image = self.train.pictures(material[1], self.device)
        image = material[2].images(image).contiguous(memory_format=torch.channels_last)
        out = self.wrapped[0](image, quantise=quantise)
        reconstruction = out["reconstruction"]
        pixel = reconstruction_loss(reconstruction, image, settings.mouth_weight, self.mouth)
        seen, truth = random_windows(WINDOW, reconstruction, image)
        logged = {"l1": pixel.detach(), "vq": out["vq_loss"].detach()}
        loss, judged = pixel, None
        if self.perceptual is not None:
            perceptual = self.perceptual(seen, truth)
            logged["perceptual"] = perceptual.detach()
            loss = loss + settings.perceptual_weight * perceptual
        if number >= self.sharpen_from:
            self.sharpened = number - self.sharpen_from + 1
            grown = min(1.0, self.sharpened / (ADVERSARIAL_RAMP * (self.steps - self.sharpen_from)))
            given = loss, grown * settings.adversarial_weight, self.autoencoder.decoder.last, seen, truth
            loss, judged, figures = self.adversarial(*given)
            logged |= figures
        if quantise:
            self.encodings = {half: out[half].detach() for half in HALVES}
            self.tallies.append([self.codebook(half).tally(out[f"{half}_indices"]) for half in HALVES])
        return [loss + out["vq_loss"], judged][: len(self.optimisers)], logged

    def codebook(self, half: str) -> nn.Module:
        """C_U or C_B."""
        return getattr(self.autoencoder, f"{half}_codebook")

    def after(self, number: int) -> None:
        """Every REVIVE_EVERY steps, move the codes that nobody used onto encodings."""
        if not self.tallies:
            return
        for index, half in enumerate(HALVES):
            counts = sum(tally[index] for tally in self.tallies)
            self.model["used"][half] += self.accelerator.reduce(counts, reduction="sum")
        since = number - self.warmup + 1
        until = min(REVIVE_UNTIL * self.steps, self.sharpen_from - 1)
        if self.settings.prevent_collapse and since % REVIVE_EVERY == 0 and number <= until:
            self.revive(number)

    @torch.no_grad()
    def revive(self, number: int) -> None:
        """Move the codes that nobody used since the last time onto encodings of this batch, the same everywhere."""
        generator = torch.Generator().manual_seed(self.config.seed + number)
        for half in HALVES:
            encodings, used = self.accelerator.gather(self.encodings[half].contiguous()), self.model["used"][half]
            self.codebook(half).revive(used, encodings, generator)
            self.jumped(half, used == 0)
            used.zero_()

    def jumped(self, half: str, which: Tensor) -> None:
        """Codes, true in (K,), were put elsewhere: the mean of old and new places lies where no encoding is."""
        if self.average is not None:
            self.average.forget(self.codebook(half).weight, which)

    @torch.no_grad()
    def initialise_codes(self) -> None:
        """Both codebooks by k-means over the encodings of training faces; all processes take the first one's."""
        pairs = self.train.draw((self.config.seed, self.steps * self.config.optimiser.accumulate), KMEANS_IMAGES)
        encodings = [
            self.autoencoder.encode(self.train.images(pairs[i : i + 32]).to(self.device))
            for i in range(0, KMEANS_IMAGES, 32)
        ]
        generator = torch.Generator().manual_seed(self.config.seed)
        for index, half in enumerate(HALVES):
            tokens = torch.cat([e[index].movedim(1, -1).flatten(0, 2) for e in encodings])
            codes = kmeans(tokens, self.config.codebook.size, generator)
            self.codebook(half).set_codes(broadcast(codes))
            self.jumped(half, torch.ones(len(codes), dtype=torch.bool, device=self.device))

    def evaluate(self) -> dict[str, float]:
        """As `evaluate_codebook`; with an adversarial loss `val_score`, which grows by the step once it is there."""
        figures = evaluate_codebook(self.autoencoder, self.val, EVAL_IMAGES, perceptual=self.perceptual)
        if self.settings.adversarial_weight:
            likest = figures["val_psnr" if self.perceptual is None else "val_likeness"]
            figures["val_score"] = SHARPENED + self.sharpened if self.sharpened else likest
        return figures


@torch.no_grad()
def evaluate_codebook(
    autoencoder: FaceAutoencoder,
    sampler: FrameSampler,
    images: int,
    batch: int = 32,
    perceptual: nn.Module | None = None,
) -> dict[str, float]:
    """PSNR, sharpness, and usage and perplexity of both codebooks, on fixed frames of the sampler's split.

    perceptual : a perceptual loss; `val_likeness` is then its mean, negative, so that more is better
    """
    was_training = autoencoder.training
    autoencoder.eval()
    device = next(autoencoder.parameters()).device
    counts = [torch.zeros(autoencoder.config.codebook.size) for _ in range(2)]
    mouth = mouth_pixels(autoencoder.config.data.size)
    errors, mouth_errors, distances, sharpness = [], [], [], []
    pairs = sampler.fixed(images)
    for first in range(0, len(pairs), batch):
        image = sampler.images(pairs[first : first + batch]).to(device)
        out = autoencoder.forward(image)  # not as compiled, which is for the shapes of training
        # float64 on the CPU: not every device has it
        square = ((out["reconstruction"].clamp(-1, 1) - image) / 2).cpu().double().square()
        errors.append(square.mean((1, 2, 3)))
        made, true = (_gradient_energy(x) for x in (out["reconstruction"].clamp(-1, 1), image))
        sharpness += (made / true.clamp(min=1e-9)).tolist()
        mouth_errors.append((square * mouth).sum((1, 2, 3)) / (3 * mouth.sum()))
        if perceptual is not None:
            distances.append(float(perceptual(out["reconstruction"], image)) * len(image))
        for count, half in zip(counts, ("upper", "bottom"), strict=True):
            count += torch.bincount(out[f"{half}_indices"].flatten().cpu(), minlength=len(count))
    autoencoder.train(was_training)
    psnr = lambda parts: float((-10 * torch.log10(torch.cat(parts).clamp(min=1e-10))).mean())  # noqa: E731
    likeness = {"val_likeness": -sum(distances) / len(pairs)} if perceptual is not None else {}
    return likeness | {
        "val_psnr": psnr(errors),
        "val_mouth_psnr": psnr(mouth_errors),
        "val_sharpness": sum(sharpness) / len(pairs),
        "upper_usage": usage(counts[0]),
        "bottom_usage": usage(counts[1]),
        "upper_perplexity": perplexity(counts[0]),
        "bottom_perplexity": perplexity(counts[1]),
    }


def _gradient_energy(images: Tensor) -> Tensor:
    """Mean squared step between neighbours of the bottom halves of (B, 3, S, S): (B,)."""
    bottom = split_halves(images)[1]
    return sum(bottom.diff(dim=dim).square().mean((1, 2, 3)) for dim in (2, 3))
