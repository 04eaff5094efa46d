"""Faces: found in pictures, followed through a video, and aligned to one place in a crop."""

from .landmarks import MEDIAPIPE_68, MEDIAPIPE_FILE, Tracker, open_tracker, pose_from_landmarks

__all__ = ["MEDIAPIPE_68", "MEDIAPIPE_FILE", "Tracker", "open_tracker", "pose_from_landmarks"]
