"""Model families, one file each; `tglo.models.registry` lists them."""
