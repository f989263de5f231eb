"""How much off-chip bandwidth a target decoding speed needs."""
