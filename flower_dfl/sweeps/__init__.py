"""Many runs from one file, and tables of what they found. See ``docs/sweeps.md``."""
