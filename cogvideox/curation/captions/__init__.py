"""Captions: the paper's ladder (Section 3.4, Appendix G), with several back-ends for each rung.

    clip --short--> caption of a sentence --+
         --frames--> a caption every 2 s  --+--summary--> long caption
         --direct--> long caption of an end-to-end captioner

Every caption is checked (`quality.checks`), and models are asked again with the reason if it fails. `config` has the
settings, `run` captions a folder, `back_ends.registry` lists the back-ends.
"""
