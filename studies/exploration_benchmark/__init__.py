"""How good, fast and crash-proof the exploration is: four parts, each with its own numbers."""
