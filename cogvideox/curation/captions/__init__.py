"""Captioning pipeline of the paper (Section 3.4, Appendix G), with several back-ends for each stage.

    clip --short--> one-sentence caption  --+
         --frames--> a caption every 2 s  --+--summary--> long caption
         --direct--> long caption of an end-to-end captioner

Every caption is checked (`quality.checks`); if a check fails, the model is called again with the reason. `config` has
the settings, `run` captions a folder, `back_ends.registry` lists the back-ends.
"""
