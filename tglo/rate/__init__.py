"""`tglo rate`: people give images one to five stars on a local page, and the stars become a manifest's scores."""
