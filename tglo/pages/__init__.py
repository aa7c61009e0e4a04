"""Pages for people: one style, templates that escape what they show, nothing loaded from elsewhere."""
