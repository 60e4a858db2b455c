"""Masks and SPECTs to activities: which masks, which counts are whose, and how wrong they may be."""
