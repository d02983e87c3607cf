"""Colours of traces on light paper, those of player.css; unsure is warm, sure is cool."""

PAPER = "#fbfaf7"
INK = "#1c1b19"
MUTED = "#6b6760"
RULE = "#dcd8cf"
MASK = "#d3cec3"
ARRIVED = "#57534b"
CORRECTED = "#b3146d"
# Behind tokens that are new, and under all others; by steps of confidence.
FILLS = ("#f0935c", "#f9cf9c", "#f4efd2", "#cfe7f2", "#92c5ec")
LINES = ("#a62c06", "#cd7d1e", "#857c5c", "#4b96ae", "#15569a")
# The nearest of a terminal's 256 colours that can be read on light and on dark.
TERMINAL_STEPS = (202, 172, 101, 73, 32)
TERMINAL_CORRECTED = 162
