"""A user's folder of videos and captions: layouts, clip windows, frames."""
