"""End-to-end video captioner: a vision encoder, a projector and a small language model as decoder.

    frames --vision--> tokens (grid cells x times) --projector--> prefix of the decoder --decoder--> caption

`training.captioner` trains it, and the back-end `captioner` (`back_ends.captioner`) captions clips with it.
"""
