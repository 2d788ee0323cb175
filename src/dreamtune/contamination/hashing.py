"""Hashing of sequences of 64-bit hashes, on arrays."""

import numpy as np

BASE = np.uint64(0x9E3779B97F4A7C15)  # of the polynomial hash; odd, so no bit of an earlier word is lost
MIX = np.uint64(0xFF51AFD7ED558CCD)  # of MurmurHash3's last step


def mixed(hashes: np.ndarray) -> np.ndarray:
    """Return hashes whose bits depend on all bits of the given ones, as in MurmurHash3's last step; [n] uint64."""
    mixed = (hashes ^ (hashes >> np.uint64(33))) * MIX
    return mixed ^ (mixed >> np.uint64(33))
