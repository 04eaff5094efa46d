"""The model that some settings describe."""

from ..config import Config
from .autoencoder import FaceAutoencoder
from .lipformer import LipFormer
from .ours import OurLipFormer


def build(config: Config, autoencoder: FaceAutoencoder | None = None) -> LipFormer:
    """The paper's LipFormer or ours, by `lips.design`, untrained; `autoencoder`: a trained stage 1."""
    return (OurLipFormer if config.lips.design == "ours" else LipFormer)(config, autoencoder)
