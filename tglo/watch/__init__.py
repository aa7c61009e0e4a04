"""Training runs watched from outside, by the files that they write: `tglo watch`."""
