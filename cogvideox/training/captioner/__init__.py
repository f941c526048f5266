"""Fine-tuning of captioning models: a summarizer (language model) and an end-to-end video captioner.

`summarizer_trainer` fine-tunes a language model on the summaries in folders of `cogvideox caption` (Section 3.4);
`captioner_trainer` trains `curation.captions.video_captioner` on clips and captions. Both use `training_run`.
"""
