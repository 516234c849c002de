"""The evaluation protocol, during a run and on a checkpoint; videos. Imports sbrl alone."""
