"""Reports of a run on itself: metrics, progress, trackers."""
