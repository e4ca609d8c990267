"""How packets move: the layout of the state, the kernel, and the driver that runs it in slices."""
