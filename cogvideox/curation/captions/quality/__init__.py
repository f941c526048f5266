"""The quality of captions: checks of each caption, questions and answers about them, similarity to references."""
