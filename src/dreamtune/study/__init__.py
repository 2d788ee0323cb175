"""Statistics of a study: methods with seeds, a family of comparisons, a choice among points, learning curves."""
