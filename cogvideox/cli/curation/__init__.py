"""Commands of curation: `curate` and `funnel`."""
