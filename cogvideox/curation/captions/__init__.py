"""Captions: the paper's ladder (Section 3.4, Appendix G), with several back-ends for each rung.

    clip --short--> caption of a sentence --+
         --frames--> a caption every 2 s  --+--summary--> long caption
         --direct--> long caption of an end-to-end captioner

Every caption is checked (`checks`), and models are asked again with the reason if it fails. `ladder` is the config,
`run` captions a folder, `registry` lists the back-ends.
"""
