"""The second witness: a slow simulator written from docs/physics.md alone, and random cases for it."""
