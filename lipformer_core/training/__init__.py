"""LipFormer training: stage 1 (codebook) and stage 2 (lipformer), one loop."""
