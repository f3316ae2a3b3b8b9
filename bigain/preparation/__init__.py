"""Data sets brought into the layout that bigain.datasets reads."""
