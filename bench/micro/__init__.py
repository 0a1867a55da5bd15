"""Each kernel alone: ``make bench-micro``."""
