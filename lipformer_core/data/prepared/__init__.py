"""The prepared form of a corpus: how it is made, how it is stored, and how it is read."""
