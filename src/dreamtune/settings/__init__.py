"""The configuration's sections, one typed module each: a stage's code digest covers only those that it imports."""
