from dreamtune.generate.sampler import generate as generate
