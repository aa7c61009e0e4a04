"""A small real problem on the path that a user's own model would take."""
