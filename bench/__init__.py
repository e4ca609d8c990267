"""How fast the engine is, as ratios measured in one run; README.md says how each figure is made."""
