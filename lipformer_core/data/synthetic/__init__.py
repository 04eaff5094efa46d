"""The embedded corpus: talking heads with sound, generated from a seed, with exact ground truth."""

from lipformer_core.data.synthetic.clip import SyntheticClip, correspondence, synthesise_clip

__all__ = ["SyntheticClip", "correspondence", "synthesise_clip"]
