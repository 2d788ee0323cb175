"""The names that code outside of the project may rely on; import everything else from the modules."""

from dreamtune.generate.sampler import generate as generate
