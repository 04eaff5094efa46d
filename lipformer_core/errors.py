"""Typed errors. Each message says what was wrong, where, and what to do; the command line exits with code 2."""


class LipFormerError(Exception):
    """Base of every error that a user can cause and mend."""

    def _render_traceback_(self) -> list[str]:
        """What IPython shows in place of a page of calls: the one sentence."""
        return [f"{type(self).__name__}: {self}"]


class ConfigError(LipFormerError):
    """An unknown or ill-typed setting; the message names the field."""


class MediaError(LipFormerError):
    """A media file that cannot be used; the message names the file and the reason."""


class OutputError(MediaError):
    """A result that cannot be written where it should be, or that would replace an input or another result."""


class NoVideoStream(MediaError):
    """A file without pictures was given where a video is needed."""


class NoAudioStream(MediaError):
    """A file without sound was given where speech is needed."""


class UnreadableMedia(MediaError):
    """Empty, truncated, or in no format that the media library reads."""


class AudioTooLong(MediaError):
    """The audio outlasts the video and the policy is `error`."""


class NoFaceFound(LipFormerError):
    """Not a single frame shows a usable face."""


class WeightsMissing(LipFormerError):
    """A pretrained file is needed and not present; the message names the file and where it was looked for."""


class DownloadFailed(LipFormerError):
    """A pretrained file could not be downloaded or stored; nothing of it is left."""


class WeightsCorrupt(LipFormerError):
    """A pretrained file's hash is not the published one."""


class CheckpointError(LipFormerError):
    """A checkpoint that is missing, incomplete, or not in the safe format."""


class DataError(LipFormerError):
    """A prepared corpus that is missing, incomplete, or of another version."""


class TrainingDiverged(LipFormerError):
    """A loss became NaN or infinite; the last checkpoint is still good."""
