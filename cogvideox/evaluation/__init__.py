"""Evaluation of models and of videos: suites of prompts, scorers, scores with their protocols, reports.

A suite lists the videos to generate (`scorer.Item`). Scorers measure every video by itself, so that measurements are
cached, and their metrics summarize the measurements of all videos. Every score carries the protocol that produced it.
"""
