"""Data: media and faces in, one prepared form out."""
