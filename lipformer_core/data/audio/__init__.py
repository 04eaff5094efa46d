"""Sound: log-mel, a pretrained encoder's features of speech, and the offset between sound and lips."""

from .mel import SILENCE, TYPICAL, band_means, log_mel, mel_windows, silent_rows

__all__ = ["SILENCE", "TYPICAL", "band_means", "log_mel", "mel_windows", "silent_rows"]
