"""A user's folder of videos and captions: its layout, its clips, the windows cut from them, and their frames."""
