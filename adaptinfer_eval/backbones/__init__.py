"""What differs between model families; the engine, the wrappers and the sweep ask here. Rests on nothing above it."""
