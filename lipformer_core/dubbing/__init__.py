"""From a video and a sound to an mp4: decode, track, crop, generate, composite, encode."""
