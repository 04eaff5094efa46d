"""Media files: what they hold, their pictures and their sound in order, pictures by index, and writing a result."""

from .demux import MediaInfo, frame_times, iter_frames, probe
from .packets import Damage
from .soundtrack import read_audio
from .video import FrameReader, frames_held
from .writer import VideoWriter

__all__ = [
    "Damage",
    "FrameReader",
    "MediaInfo",
    "VideoWriter",
    "frame_times",
    "frames_held",
    "iter_frames",
    "probe",
    "read_audio",
]
