"""The kinds of textures and their brightness, which a command line names without torch."""

# Number of waves per kind. "flat" is the mean grey of the others, to separate the effect of texture
# from that of brightness.
WAVES = {"grating": 1, "checks": 2, "noise": 24, "flat": 0}
KINDS = ("grating", "checks", "noise")  # by default

AMPLITUDE = 0.08  # docs/data.md says how it was chosen
